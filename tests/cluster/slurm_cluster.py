"""A real Slurm cluster on this machine, wholly private: its own munge, database, ports and folder, nothing under /etc.

Two nodes, gpu01 and gpu02, of eight CPUs and four pretend GPUs each; partitions `gpu` (default), `preempt` and `high`.
Each slurmd lives in a mount and host-name namespace of its own, so that inside a job the node is called gpu01, and
gpu01 and gpu02 resolve, while this machine's /etc/hosts stays as it is.

For people, as root:

    eval "$(python tests/cluster/slurm_cluster.py up /tmp/slurm)"   # exports SLURM_CONF; then sinfo, sbatch, ...
    python tests/cluster/slurm_cluster.py down /tmp/slurm

A supervisor process (`serve`) owns all daemons. It adopts whatever they leave behind, and takes everything down when it
is told to or when the process that started it is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

PROGRAMS = (
    *("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd"),
    *("sbatch", "srun", "squeue", "sacct", "sacctmgr", "scontrol", "sinfo", "unshare"),
)
FOLDER_PREFIX = "hpc-yolo-slurm-"
START_TIMEOUT_S = 60.0
POLL_S = 0.05
PR_SET_CHILD_SUBREAPER = 36
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
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
UnkillableStepTimeout=30
MailProg=/bin/true
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=1:00:00 DefaultTime=10 PriorityTier=5 PreemptMode=OFF State=UP
PartitionName=preempt Nodes=ALL MaxTime=1:00:00 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP
PartitionName=high Nodes=ALL MaxTime=1:00:00 DefaultTime=10 PriorityTier=10 PreemptMode=OFF State=UP
"""

NODE_LINE = "NodeName={name} NodeAddr={address} Port={port} CPUs={cpus} RealMemory=8000 Gres=gpu:{gpus} State=UNKNOWN"

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
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


def unavailable_reason() -> str | None:
    """Why no cluster can be brought up here; None where one can."""
    if os.geteuid() != 0:
        return "the test cluster needs root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (tests/cluster/install_packages.sh)"
    tried = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class SlurmCluster:
    """The tests' side: starts a supervisor, talks to it, and runs Slurm's commands against its cluster."""

    def __init__(self, num_nodes: int = 2, folder: Path | None = None) -> None:
        self.nodes = [f"gpu{number:02d}" for number in range(1, num_nodes + 1)]
        self.folder = folder or Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._supervisor: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def supervisor_pid(self) -> int | None:
        return None if self._supervisor is None else self._supervisor.pid

    def start(self) -> None:
        """Bring everything up and wait until all nodes are idle."""
        sweep_dead_clusters()
        words = [sys.executable, __file__, "serve", str(self.folder), str(len(self.nodes))]
        self._supervisor = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._expect_ok()

    def stop(self) -> None:
        """Take everything down and away. Again is harmless."""
        if self._supervisor is not None:
            self._supervisor.communicate(timeout=START_TIMEOUT_S)  # closes its input, which is the word to leave
            self._supervisor = None
        remove_cluster(self.folder)

    def stop_daemon(self, name: str, signal_number: int = signal.SIGTERM) -> None:
        """End `munged`, `mariadbd`, `slurmdbd`, `slurmctld`, or a node's slurmd, named by its node, and wait for it.

        The steps of a node outlive its slurmd, as they do on a real one.
        """
        self._ask("stop", name, int(signal_number))

    def start_daemon(self, name: str) -> None:
        """Start a stopped daemon again and wait until it answers; does nothing to one that runs."""
        self._ask("start", name)

    @contextlib.contextmanager
    def without(self, name: str) -> Iterator[None]:
        """A daemon is down inside the block."""
        self.stop_daemon(name)
        try:
            yield
        finally:
            self.start_daemon(name)

    def run(
        self,
        *words: str,
        timeout_s: float = 60.0,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> str:
        """Run a command against this cluster; its output. With `check` a failure raises with all that it said."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        done = subprocess.run(
            words,
            env={**environ, "LC_ALL": "C", **self.environment, **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, script: str, *options: str) -> str:
        """Queue a script given as text; its job id. Its output goes into the cluster's folder."""
        path = self.folder / f"job-{random.getrandbits(32):08x}.sh"
        path.write_text(script)
        log = f"--output={self.folder}/%j.out"
        return self.run("sbatch", "--parsable", log, *options, str(path)).strip()

    def output(self, job_id: str) -> str:
        """What a job queued with `submit` has written so far."""
        path = self.folder / f"{job_id}.out"
        return path.read_text() if path.exists() else ""

    def job_state(self, job_id: str) -> str:
        """Slurm's word for the state of a job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job_id, check=False)
        words = dict(word.partition("=")[::2] for word in shown.split())
        if "JobState" in words:
            return words["JobState"]
        return (self.run("sacct", "-nXP", f"--jobs={job_id}", "--format=State").split() or ["NONE"])[0]

    def wait_for_state(self, job_id: str, states: Collection[str] | str, timeout_s: float = 60.0) -> str:
        """Wait until a job is in one of `states`; which."""
        wanted = [states] if isinstance(states, str) else list(states)
        seen = ""

        def reached() -> bool:
            nonlocal seen
            seen = self.job_state(job_id)
            return seen in wanted

        wait_until(reached, f"job {job_id} to be {' or '.join(wanted)}", timeout_s, lambda: f"it is {seen}")
        return seen

    def wait_for_nodes(self, timeout_s: float = 60.0) -> None:
        """Wait until all nodes are up and idle."""
        states: list[str] = []

        def all_idle() -> bool:
            states[:] = self.run("sinfo", "--noheader", "--partition=gpu", "--Node", "--format=%T").split()
            return states == ["idle"] * len(self.nodes)

        wait_until(all_idle, "all nodes to be idle", timeout_s, lambda: f"they are {states}")

    def cancel_all(self, timeout_s: float = 30.0) -> None:
        """Cancel every job and wait until nothing runs and all nodes are idle."""
        jobs = self.run("squeue", "--noheader", "--format=%A").split()
        if jobs:
            self.run("scancel", *jobs, check=False)
            self.run("scancel", "--signal=KILL", *jobs, check=False)
        wait_until(lambda: not self.run("squeue", "--noheader").strip(), "all jobs to end", timeout_s)

    def _ask(self, *words: str | int) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.write(json.dumps(words) + "\n")
        self._supervisor.stdin.flush()
        self._expect_ok()

    def _expect_ok(self) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdout is not None
        answer = self._supervisor.stdout.readline().strip()
        if answer != "ok":
            raise RuntimeError(f"test cluster: {json.loads(answer) if answer else 'its supervisor died'}")


def remove_cluster(folder: Path) -> None:
    """Kill whatever belongs to the cluster in `folder` and remove the folder; for one whose supervisor is gone."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((folder / "supervisor.pid").read_text()), signal.SIGKILL)
    while pids := list(processes_of(folder)):
        kill_all(pids)
        time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def sweep_dead_clusters() -> None:
    """Remove clusters whose supervisor was killed before it could clean up."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int((folder / "supervisor.pid").read_text())
            if b"slurm_cluster" not in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                raise ProcessLookupError
            continue
        if (folder / "supervisor.pid").exists():
            remove_cluster(folder)


def processes_of(folder: Path) -> Iterator[int]:
    """Processes that name `folder` in their command line or have its SLURM_CONF, but for this one."""
    marks = [f"{folder}/".encode(), f"SLURM_CONF={folder}/slurm.conf".encode()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marks[0] in (entry / "cmdline").read_bytes() or marks[1] in (entry / "environ").read_bytes():
                    yield int(entry.name)


def children_by_parent() -> dict[int, list[int]]:
    """Every living process of this machine under its parent."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    return children


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`."""
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


def wait_until(
    condition: Callable[[], bool], what: str, timeout_s: float, detail: Callable[[], str] = lambda: ""
) -> None:
    """Ask `condition` again and again; TimeoutError with `what` and `detail` when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}; {detail()}")
        time.sleep(POLL_S)


class Daemons:
    """The supervisor's side: configuration files, daemons in the order of their start, and their end."""

    def __init__(self, folder: Path, num_nodes: int) -> None:
        self.folder = folder
        self.nodes = [f"gpu{number:02d}" for number in range(1, num_nodes + 1)]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {"PATH": SYSTEM_PATH, "LC_ALL": "C", "SLURM_CONF": f"{folder}/slurm.conf"}
        self.db_port, self.dbd_port, self.ctld_port, *self.node_ports = free_ports(3 + num_nodes)
        self.commands = self._commands()

    def write_files(self) -> None:
        """All configuration, the munge key and the pretend GPUs."""
        folder, password = self.folder, f"{random.getrandbits(64):x}"
        for name in ("state", "db"):
            (folder / name).mkdir()
        write_private(folder / "munge.key", os.urandom(1024))
        places = {"folder": folder, "password": password, "host": socket.gethostname()}
        ports = {"db_port": self.db_port, "dbd_port": self.dbd_port, "ctld_port": self.ctld_port}
        addresses = {name: f"127.0.1.{number}" for number, name in enumerate(self.nodes, 1)}
        nodes = "\n".join(
            NODE_LINE.format(name=name, address=addresses[name], port=port, cpus=8, gpus=4)
            for name, port in zip(self.nodes, self.node_ports, strict=True)
        )
        (folder / "slurm.conf").write_text(SLURM_CONF.format(nodes=nodes, **places, **ports))
        write_private(folder / "slurmdbd.conf", SLURMDBD_CONF.format(**places, **ports).encode())
        (folder / "init.sql").write_text(INIT_SQL.format(password=password))
        for number in range(4):
            # Slurm counts and names only character devices; these are as good as /dev/null.
            os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (folder / "gres.conf").write_text(f"NodeName={','.join(self.nodes)} Name=gpu File={folder}/gpu[0-3]\n")
        hosts = Path("/etc/hosts").read_text()
        (folder / "hosts").write_text(hosts + "".join(f"{addresses[name]} {name}\n" for name in self.nodes))

    def start_all(self) -> None:
        """Everything, each part when what it needs is there."""
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.folder}/db"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        self.start("munged")
        self._run(*install, timeout_s=START_TIMEOUT_S)
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
        process = self.running[name]

        def answers_or_died() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}: {self.last_words(name)}")
            return self.answers(name)

        wait_until(answers_or_died, f"{name} to answer", START_TIMEOUT_S, lambda: self.last_words(name))

    def spawn(self, name: str) -> None:
        if name in self.running and self.running[name].poll() is None:
            return
        with (self.folder / f"{name}.out").open("ab") as output:
            self.running[name] = subprocess.Popen(
                self.commands[name],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,
            )

    def stop(self, name: str, signal_number: int) -> None:
        self.running[name].send_signal(signal_number)
        self.running[name].wait(timeout=START_TIMEOUT_S)

    def answers(self, name: str) -> bool:
        """Whether a daemon does its work."""
        if name == "munged":
            return self._succeeds("munge", "--no-input", f"--socket={self.folder}/munge.socket")
        if name == "mariadbd":
            return port_is_open("127.0.0.1", self.db_port)
        if name == "slurmdbd":
            return port_is_open("127.0.0.1", self.dbd_port) and self._succeeds("sacctmgr", "-n", "show", "cluster")
        if name == "slurmctld":
            return port_is_open("127.0.0.1", self.ctld_port) and self._succeeds("scontrol", "ping")
        return self._node_state(name) not in ("down", "down*", "unknown", "unknown*")

    def wait_for_nodes(self) -> None:
        def all_idle() -> bool:
            return all(self._node_state(name) == "idle" for name in self.nodes)

        wait_until(all_idle, "all nodes to be idle", START_TIMEOUT_S, lambda: self.last_words(self.nodes[0]))

    def last_words(self, name: str) -> str:
        """The end of a daemon's log."""
        logs = [self.folder / f"{name}.out", self.folder / f"{name}.log", self.folder / f"slurmd-{name}.log"]
        return "\n".join(line for log in logs if log.exists() for line in log.read_text().splitlines()[-5:])

    def take_down(self) -> None:
        """End every process below this one, also those that a daemon left behind, and remove the folder."""
        while pids := descendants(os.getpid()):
            kill_all(pids)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
            time.sleep(POLL_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _commands(self) -> dict[str, list[str]]:
        folder = self.folder
        files = [
            f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in ("key-file", "pid-file", "log-file")
        ]
        commands = {
            "munged": [
                "munged",
                "--foreground",
                *files,
                f"--socket={folder}/munge.socket",
                f"--seed-file={folder}/seed",
            ],
            "mariadbd": [
                *(
                    "mariadbd",
                    "--no-defaults",
                    "--user=root",
                    f"--datadir={folder}/db",
                    f"--socket={folder}/db/my.sock",
                ),
                *(f"--port={self.db_port}", "--bind-address=127.0.0.1", f"--pid-file={folder}/db/my.pid"),
                *(
                    "--innodb-buffer-pool-size=64M",
                    "--innodb-flush-log-at-trx-commit=0",
                    f"--init-file={folder}/init.sql",
                ),
            ],
            "slurmdbd": ["slurmdbd", "-D"],
            "slurmctld": ["slurmctld", "-D", "-f", f"{folder}/slurm.conf"],
        }
        for name in self.nodes:
            in_node = f"mount --bind {folder}/hosts /etc/hosts && hostname {name} && exec slurmd -D -N {name}"
            commands[name] = ["unshare", "--mount", "--uts", "sh", "-c", f"{in_node} -f {folder}/slurm.conf"]
        return commands

    def _node_state(self, name: str) -> str:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            return self._run("sinfo", "--noheader", "--format=%T", f"--nodes={name}").split()[0]
        return "unknown"

    def _succeeds(self, *words: str) -> bool:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self._run(*words, timeout_s=5.0)
            return True
        return False

    def _run(self, *words: str, timeout_s: float = 10.0) -> str:
        """A client that cannot authenticate hangs for minutes, so every one has a time limit."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.stdout


def serve(folder: Path, num_nodes: int, *, detached: bool) -> None:
    """Be the supervisor: start everything, carry out requests, and leave nothing behind."""
    # Orphans below this process become its children, so that its end is the end of all of them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder.chmod(0o755)
    (folder / "supervisor.pid").write_text(str(os.getpid()))
    daemons = Daemons(folder, num_nodes)
    try:
        answer(lambda: (daemons.write_files(), daemons.start_all()))
        if detached:
            while True:
                signal.pause()
        for line in sys.stdin:
            action, name, *rest = json.loads(line)
            answer(lambda: daemons.start(name) if action == "start" else daemons.stop(name, *rest))  # noqa: B023
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        daemons.take_down()


def answer(action: Callable[[], object]) -> None:
    """Do something and tell the other side how it went, in one line."""
    try:
        action()
        print("ok", flush=True)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)


def up(folder: Path, num_nodes: int) -> None:
    """Bring up a cluster that outlives this command; prints what to type to use it."""
    sweep_dead_clusters()
    folder.mkdir(parents=True, exist_ok=False)
    words = [sys.executable, __file__, "serve", str(folder), str(num_nodes), "detached"]
    with (folder / "supervisor.out").open("w") as errors:  # not ours: who waits for our end must not wait for its
        supervisor = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    assert supervisor.stdout is not None
    answered = supervisor.stdout.readline().strip()
    if answered != "ok":
        remove_cluster(folder)
        raise SystemExit(f"no cluster: {json.loads(answered) if answered else 'its supervisor died'}")
    print(f"export SLURM_CONF={folder}/slurm.conf")


def down(folder: Path) -> None:
    """Take down the cluster in `folder`."""
    if not (folder / "slurm.conf").exists():
        raise SystemExit(f"{folder} holds no cluster")
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((folder / "supervisor.pid").read_text()), signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not folder.exists(), "the cluster to go", 20.0)
    remove_cluster(folder)


def free_ports(num_ports: int) -> list[int]:
    """Ports of this machine that nobody listens on, below those that outgoing connections take."""
    found: list[int] = []
    while len(found) < num_ports:
        port = random.randrange(3000, 9999)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            found += [port] if port not in found else []
    return found


def port_is_open(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", folder, num_nodes, *detached]:
            serve(Path(folder), int(num_nodes), detached=bool(detached))
        case ["up", folder]:
            if reason := unavailable_reason():
                raise SystemExit(reason)
            up(Path(folder).absolute(), 2)
        case ["down", folder]:
            down(Path(folder).absolute())
        case _:
            raise SystemExit(f"usage: {sys.argv[0]} up DIR | down DIR")
