"""The supervisor of a test cluster: configuration files, daemons in the order of their start, and their end.

Runs as a separate process, started by `slurm_cluster.py`. It adopts orphans of its daemons, and stops everything on
request or when the process that started it is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from waiting import PATIENCE_S, POLL_S, wait_until

REAP_S = 0.5
PR_SET_CHILD_SUBREAPER = 36
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Older ones refuse the setting; newer ones warn of the cgroup/v1 that they find without it.
CGROUPS_CAN_BE_DISABLED = (24, 11)

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={directory}/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PriorityType=priority/basic
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
JobRequeue=1
ReturnToService=2
KillWait=5
SlurmdTimeout=30
UnkillableStepTimeout=60
MailProg=/bin/true
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=1:00:00 DefaultTime=10 PriorityTier=5 PreemptMode=OFF State=UP
PartitionName=preempt Nodes=ALL MaxTime=1:00:00 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP
PartitionName=high Nodes=ALL MaxTime=1:00:00 DefaultTime=10 PriorityTier=10 PreemptMode=OFF State=UP
"""

NODE_LINE = "NodeName={name} NodeAddr={address} Port={port} CPUs={cpus} RealMemory=8000 Gres=gpu:{gpus} State=UNKNOWN"

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
PidFile={directory}/slurmdbd.pid
LogFile={directory}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""

INIT_SQL = """\
CREATE DATABASE slurm_acct_db;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""


class Daemons:
    """Configuration files and daemons, in the order of their start."""

    def __init__(self, directory: Path, num_nodes: int, settings: Mapping[str, str]) -> None:
        self.directory, self.settings = directory, settings
        self.nodes = [f"gpu{number:02d}" for number in range(1, num_nodes + 1)]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {"PATH": SYSTEM_PATH, "LC_ALL": "C", "SLURM_CONF": f"{directory}/slurm.conf"}
        self.reservations = reserve_ports(3 + num_nodes)
        self.db_port, self.dbd_port, self.ctld_port, *self.node_ports = self.reservations
        self.commands = self._commands()

    def write_files(self) -> None:
        """Write all configuration files, the munge key and the simulated GPUs."""
        directory, password = self.directory, f"{random.getrandbits(64):x}"
        for name in ("state", "db"):
            (directory / name).mkdir()
        write_private(directory / "munge.key", os.urandom(1024))
        places = {"directory": directory, "password": password, "host": socket.gethostname()}
        ports = {"db_port": self.db_port, "dbd_port": self.dbd_port, "ctld_port": self.ctld_port}
        addresses = {name: f"127.0.1.{number}" for number, name in enumerate(self.nodes, 1)}
        nodes = "\n".join(
            NODE_LINE.format(name=name, address=addresses[name], port=port, cpus=8, gpus=4)
            for name, port in zip(self.nodes, self.node_ports, strict=True)
        )
        (directory / "slurm.conf").write_text(
            with_settings(SLURM_CONF.format(nodes=nodes, **places, **ports), self.settings)
        )
        write_private(directory / "slurmdbd.conf", SLURMDBD_CONF.format(**places, **ports).encode())
        (directory / "init.sql").write_text(INIT_SQL.format(password=password))
        if (installed_version() or (0, 0)) >= CGROUPS_CAN_BE_DISABLED:
            (directory / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        for number in range(4):
            # Slurm counts and names only character devices; these are as good as /dev/null.
            os.mknod(directory / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (directory / "gres.conf").write_text(f"NodeName={','.join(self.nodes)} Name=gpu File={directory}/gpu[0-3]\n")
        hosts = Path("/etc/hosts").read_text()
        (directory / "hosts").write_text(hosts + "".join(f"{addresses[name]} {name}\n" for name in self.nodes))
        for name in self.nodes:
            (directory / f"boot_id-{name}").write_text(f"{uuid.uuid4()}\n")

    def start_all(self) -> None:
        """Start all daemons, each when the ones it needs answer."""
        self.write_files()
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.directory}/db"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db", f"--tmpdir={self.directory}"]
        self.start("munged")
        self._run(*install)
        for name in ("mariadbd", "slurmdbd"):
            self.start(name)
        self._run("sacctmgr", "--immediate", "add", "cluster", "test")
        self.start("slurmctld")
        for name in self.nodes:
            self.spawn(name)
        self.wait_for_nodes()

    def start(self, name: str) -> None:
        """Start one daemon unless it runs, and wait until it answers."""
        self.spawn(name)

        def answers_or_died() -> bool:
            self.check_alive(name)
            return self.answers(name)

        wait_until(answers_or_died, f"{name} to answer", lambda: self.log_tail(name))

    def check_alive(self, name: str) -> None:
        if (status := self.running[name].poll()) is not None:
            raise RuntimeError(f"{name} ended with {status}: {self.log_tail(name)}")

    def spawn(self, name: str) -> None:
        if name in self.running and self.running[name].poll() is None:
            return
        with (self.directory / f"{name}.out").open("ab") as output:
            self.running[name] = subprocess.Popen(
                self.commands[name],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                start_new_session=True,
            )

    def stop(self, name: str, signal_number: int) -> None:
        self.running[name].send_signal(signal_number)
        self.running[name].wait(timeout=PATIENCE_S)

    def lose(self, name: str) -> None:
        """Kill a node's slurmd, its steps and everything in them at once, as a power cut does."""
        slurmd = self.running[name]
        kill_all(processes_in_namespace("uts", slurmd.pid))
        slurmd.wait(timeout=PATIENCE_S)

    def answers(self, name: str) -> bool:
        """Return True if a daemon answers."""
        if name == "munged":
            return self._succeeds("munge", "--no-input", f"--socket={self.directory}/munge.socket")
        if name == "mariadbd":
            return (self.directory / "db" / "my.sock").is_socket()  # made after it listens on its port
        if name == "slurmdbd":
            return port_is_open("127.0.0.1", self.dbd_port) and self._succeeds("sacctmgr", "-n", "show", "cluster")
        if name == "slurmctld":
            return port_is_open("127.0.0.1", self.ctld_port) and self._succeeds("scontrol", "ping")
        return self._node_state(name) not in ("down", "down*", "unknown", "unknown*")

    def wait_for_nodes(self) -> None:
        def all_idle() -> bool:
            for name in self.nodes:
                self.check_alive(name)
            return all(self._node_state(name) == "idle" for name in self.nodes)

        wait_until(all_idle, "all nodes to be idle", lambda: self.log_tail(self.nodes[0]))

    def log_tail(self, name: str) -> str:
        """Return the end of the log of a daemon."""
        logs = [self.directory / f"{name}.out", self.directory / f"{name}.log", self.directory / f"slurmd-{name}.log"]
        return "\n".join(line for log in logs if log.exists() for line in log.read_text().splitlines()[-5:])

    def reap(self) -> None:
        """Wait for ended daemons and orphans, which would stay as zombies."""
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                daemon = next((process for process in self.running.values() if process.pid == ended.si_pid), None)
                if daemon is None or daemon.poll() is None:
                    os.waitpid(ended.si_pid, 0)

    def take_down(self) -> None:
        """End every process below this one, orphans of daemons too, and remove the directory."""
        while pids := descendants(os.getpid()):
            kill_all(pids)
            time.sleep(POLL_S)
            self.reap()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _commands(self) -> dict[str, list[str]]:
        directory = self.directory
        files = [
            f"--{name}={directory}/munge.{name.removesuffix('-file')}" for name in ("key-file", "pid-file", "log-file")
        ]
        commands = {
            "munged": [
                "munged",
                "--foreground",
                *files,
                f"--socket={directory}/munge.socket",
                f"--seed-file={directory}/seed",
            ],
            "mariadbd": [
                *(
                    "mariadbd",
                    "--no-defaults",
                    "--user=root",
                    f"--datadir={directory}/db",
                    f"--socket={directory}/db/my.sock",
                ),
                *(f"--port={self.db_port}", "--bind-address=127.0.0.1", f"--pid-file={directory}/db/my.pid"),
                f"--tmpdir={directory}",  # a server that starts removes temporary tables there, whosever they are
                *(
                    "--innodb-buffer-pool-size=64M",
                    "--innodb-flush-log-at-trx-commit=0",
                    "--loose-innodb-snapshot-isolation=OFF",
                    f"--init-file={directory}/init.sql",
                ),
            ],
            "slurmdbd": ["slurmdbd", "-D"],
            "slurmctld": ["slurmctld", "-D", "-f", f"{directory}/slurm.conf"],
        }
        for name in self.nodes:
            binds = {"hosts": "/etc/hosts", f"boot_id-{name}": "/proc/sys/kernel/random/boot_id"}
            mounts = " && ".join(f"mount --bind {directory}/{file} {place}" for file, place in binds.items())
            in_node = f"{mounts} && hostname {name} && exec slurmd -D -N {name} -f {directory}/slurm.conf"
            commands[name] = ["unshare", "--mount", "--uts", "sh", "-c", in_node]
        return commands

    def _node_state(self, name: str) -> str:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            return self._run("sinfo", "--noheader", "--format=%T", f"--nodes={name}").split()[0]
        return "unknown"

    def _succeeds(self, *command: str) -> bool:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self._run(*command, timeout_s=30.0)
            return True
        return False

    def _run(self, *command: str, timeout_s: float = PATIENCE_S) -> str:
        """Run a client of Slurm with a time limit: one that cannot authenticate hangs for minutes."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.stdout


def with_settings(conf: str, settings: Mapping[str, str]) -> str:
    """Return the text of a slurm.conf with settings replaced, or put before the rest where it does not have them."""
    kept = [line for line in conf.splitlines() if line.partition("=")[0] not in settings]
    return "".join(f"{line}\n" for line in (*(f"{name}={value}" for name, value in settings.items()), *kept))


def serve(directory: Path, num_nodes: int, settings: Mapping[str, str], *, detached: bool) -> None:
    """Start everything, execute requests, and leave nothing behind."""
    # Orphans below this process become its children, so that its end is the end of all of them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    directory.chmod(0o755)
    # Never there without its content: another session would take this cluster for a dead one.
    (directory / "supervisor.new").write_text(str(os.getpid()))
    (directory / "supervisor.new").replace(directory / "supervisor.pid")
    daemons = Daemons(directory, num_nodes, settings)
    actions: dict[str, Callable[..., None]] = {"start": daemons.start, "stop": daemons.stop, "lose": daemons.lose}
    try:
        answer(daemons.start_all)
        for line in requests(daemons.reap, detached=detached):
            action, *arguments = json.loads(line)
            answer(functools.partial(actions[action], *arguments))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        daemons.take_down()


def requests(meanwhile: Callable[[], None], *, detached: bool) -> Iterator[str]:
    """Yield input lines until the sender is gone; a detached supervisor waits for a signal only."""
    while True:
        readable, _, _ = select.select([] if detached else [sys.stdin], [], [], REAP_S)
        meanwhile()
        if readable:
            line = sys.stdin.readline()
            if not line:
                return
            yield line


def answer(action: Callable[[], object]) -> None:
    """Execute an action and report the result to the client in one line."""
    try:
        action()
        print("ok", flush=True)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)


def installed_version() -> tuple[int, int] | None:
    """Return the generation of the installed Slurm, such as (22, 5); None where there is none."""
    program = shutil.which("slurmctld", path=SYSTEM_PATH)
    if program is None:
        return None
    shown = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", shown)
    return None if found is None else (int(found[1]), int(found[2]))


def reserve_ports(num_ports: int) -> dict[int, socket.socket]:
    """Return ports that nobody listens on, below those of outgoing connections, each with its reservation.

    A daemon listens seconds later. Until then another cluster must not choose its port: the reservation is an abstract
    socket, which all processes of a network namespace see and which ends with this process.
    """
    found: dict[int, socket.socket] = {}
    while len(found) < num_ports:
        port = random.randrange(3000, 9999)
        reservation = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            reservation.bind(f"\0hpc-yolo-test-cluster-port-{port}")
            found[port] = reservation
    return found


def port_is_open(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def children_by_parent() -> dict[int, list[int]]:
    """Return parent process id -> ids of its living children, for all processes of this machine."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    return children


def processes_in_namespace(kind: str, pid: int) -> list[int]:
    """Return all processes in the same namespace as `pid`."""
    wanted, found = Path("/proc", str(pid), "ns", kind).readlink(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns" / kind).readlink() == wanted:
                found.append(int(entry.name))
    return found


def descendants(pid: int) -> list[int]:
    """Return all living processes below `pid`."""
    children = children_by_parent()
    found: list[int] = []
    below = [pid]
    while below:
        below = [child for parent in below for child in children.get(parent, [])]
        found += below
    return found


def kill_all(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), detached=sys.argv[4:] == ["detached"])
