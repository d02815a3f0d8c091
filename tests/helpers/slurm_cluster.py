"""A private, real Slurm cluster on this machine: its own munge, database, ports and directory, nothing under /etc.

Two nodes, gpu01 and gpu02, of eight CPUs and four simulated GPUs each; partitions `gpu` (default), `preempt` and
`high`. Each slurmd runs in its own mount and host-name namespace, so that inside a job the node is called gpu01, gpu01
and gpu02 resolve, and the nodes have different boot ids, while the files of this machine stay unchanged.

On the command line, as root:

    eval "$(python tests/helpers/slurm_cluster.py up /tmp/slurm)"   # exports SLURM_CONF; then sinfo, sbatch, ...
    python tests/helpers/slurm_cluster.py down /tmp/slurm

All daemons belong to a supervisor process, `slurm_daemons.py`, which also ends them when its client is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from slurm_daemons import SYSTEM_PATH, installed_version, kill_all
from waiting import PATIENCE_S, POLL_S, wait_until

PROGRAMS = (
    *("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd"),
    *("sbatch", "srun", "squeue", "sacct", "sacctmgr", "scontrol", "sinfo", "unshare"),
)
REMOVE_TRIES = 100
# No requeue follows; it may after NODE_FAIL and PREEMPTED.
FINAL_STATES = {"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT"}
DIRECTORY_PREFIX = "hpc-yolo-slurm-"
SUPERVISOR = Path(__file__).parent / "slurm_daemons.py"


def unavailable_reason() -> str | None:
    """Return why no cluster can be started here; None where one can."""
    if os.geteuid() != 0:
        return "the test cluster needs root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (tests/helpers/install_packages.sh)"
    tried = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class SlurmCluster:
    """The client: starts a supervisor, sends it requests, and runs Slurm's commands against its cluster."""

    def __init__(
        self, num_nodes: int = 2, directory: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """Choose the nodes; `settings` are lines of slurm.conf that replace those of the same name or are added."""
        self.settings = dict(settings or {})
        self.nodes = [f"gpu{number:02d}" for number in range(1, num_nodes + 1)]
        self.directory = directory or Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
        self._supervisor: subprocess.Popen[str] | None = None

    @property
    def version(self) -> tuple[int, int]:
        """Version of the Slurm of this cluster, such as (26, 5)."""
        version = installed_version()
        assert version is not None
        return version

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that a client of this cluster needs."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    @property
    def supervisor_pid(self) -> int | None:
        """Process id of the supervisor; None while it does not run."""
        return None if self._supervisor is None else self._supervisor.pid

    def start(self) -> None:
        """Start everything and wait until all nodes are idle."""
        sweep_dead_clusters()
        command = [
            sys.executable,
            str(SUPERVISOR),
            str(self.directory),
            str(len(self.nodes)),
            json.dumps(self.settings),
        ]
        self._supervisor = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._expect_ok()

    def stop(self) -> None:
        """Stop and remove everything; may be called again."""
        if self._supervisor is not None:
            self._supervisor.communicate(timeout=PATIENCE_S)  # closes its input, which is the word to leave
            self._supervisor = None
        remove_cluster(self.directory)

    def stop_daemon(self, name: str, signal_number: int = signal.SIGTERM) -> None:
        """Stop `munged`, `mariadbd`, `slurmdbd`, `slurmctld`, or the slurmd of the node `name`, and wait for it.

        The steps of a node outlive its slurmd, as on a real one.
        """
        self._ask("stop", name, int(signal_number))

    def start_daemon(self, name: str) -> None:
        """Start a stopped daemon again and wait until it answers; does nothing to a running one."""
        self._ask("start", name)

    def lose_node(self, name: str) -> None:
        """Kill everything on a node at once, its slurmd too; `start_daemon` restores it."""
        self._ask("lose", name)

    @contextlib.contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Keep a daemon down inside the block."""
        self.stop_daemon(name)
        try:
            yield
        finally:
            self.start_daemon(name)

    def run(
        self,
        *command: str,
        timeout_s: float = PATIENCE_S,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> str:
        """Run a command against this cluster; return its output. With `check` a failure raises with all output."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        done = subprocess.run(
            command,
            env={**environ, "LC_ALL": "C", **self.environment, **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, script: str, *options: str) -> str:
        """Queue a script given as text; return its job id. Its output goes to the directory of the cluster."""
        path = self.directory / f"job-{random.getrandbits(32):08x}.sh"
        path.write_text(script)
        log = f"--output={self.directory}/%j.out"
        return self.run("sbatch", "--parsable", log, *options, str(path)).strip()

    def output(self, job_id: str) -> str:
        """Return what a job queued with `submit` has written so far."""
        path = self.directory / f"{job_id}.out"
        return path.read_text() if path.exists() else ""

    def job_state(self, job_id: str) -> str:
        """Return Slurm's state of a job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job_id, check=False)
        fields = dict(field.partition("=")[::2] for field in shown.split())
        if "JobState" in fields:
            return fields["JobState"]
        return (self.run("sacct", "-nXP", f"--jobs={job_id}", "--format=State").split() or ["NONE"])[0]

    def wait_for_state(self, job_id: str, states: Collection[str] | str) -> str:
        """Wait until a job is in one of `states`; return it. Raises when the job has ended in another final state."""
        wanted = [states] if isinstance(states, str) else list(states)
        seen = ""

        def reached() -> bool:
            nonlocal seen
            seen = self.job_state(job_id)
            assert seen in wanted or seen not in FINAL_STATES, f"job {job_id} is {seen}, not {' or '.join(wanted)}"
            return seen in wanted

        wait_until(reached, f"job {job_id} to be {' or '.join(wanted)}", lambda: f"it is {seen}")
        return seen

    def wait_for_nodes(self) -> None:
        """Wait until all nodes are up and idle."""
        states: list[str] = []

        def all_idle() -> bool:
            states[:] = self.run("sinfo", "--noheader", "--partition=gpu", "--Node", "--format=%T").split()
            return states == ["idle"] * len(self.nodes)

        wait_until(all_idle, "all nodes to be idle", lambda: f"they are {states}")

    def cancel_all(self) -> None:
        """Cancel every job and wait until nothing runs and all nodes are idle."""
        jobs = self.run("squeue", "--noheader", "--format=%A").split()
        if jobs:
            self.run("scancel", *jobs, check=False)
            self.run("scancel", "--signal=KILL", *jobs, check=False)
        wait_until(lambda: not self.run("squeue", "--noheader").strip(), "all jobs to end")

    def _ask(self, *command: str | int) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.write(json.dumps(command) + "\n")
        self._supervisor.stdin.flush()
        self._expect_ok()

    def _expect_ok(self) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdout is not None
        answer = self._supervisor.stdout.readline().strip()
        if answer != "ok":
            raise RuntimeError(f"test cluster: {json.loads(answer) if answer else 'its supervisor died'}")


def remove_cluster(directory: Path) -> None:
    """Kill all processes of the cluster in `directory` and remove the directory."""
    if pid := living_supervisor(directory):
        kill_all([pid])
    for _ in range(REMOVE_TRIES):
        while pids := list(processes_of(directory)):
            kill_all(pids)
            time.sleep(POLL_S)
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(POLL_S)  # somebody who was just dying wrote a last file


def sweep_dead_clusters() -> None:
    """Remove clusters whose supervisor was killed before it could clean up."""
    for directory in Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}*"):
        if (directory / "supervisor.pid").exists() and living_supervisor(directory) is None:
            remove_cluster(directory)


def living_supervisor(directory: Path) -> int | None:
    """Return the process id of the supervisor in `directory`; None where it does not run."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((directory / "supervisor.pid").read_text())
        if str(directory).encode() in Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0"):
            return pid
    return None


def processes_of(directory: Path) -> Iterator[int]:
    """Yield processes that name `directory` in their command line or have its SLURM_CONF, except this one."""
    marks = [f"{directory}/".encode(), f"SLURM_CONF={directory}/slurm.conf".encode()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marks[0] in (entry / "cmdline").read_bytes() or marks[1] in (entry / "environ").read_bytes():
                    yield int(entry.name)


def up(directory: Path, num_nodes: int) -> None:
    """Start a cluster that outlives this command; print the commands to use it."""
    sweep_dead_clusters()
    directory.mkdir(parents=True, exist_ok=False)
    command = [sys.executable, str(SUPERVISOR), str(directory), str(num_nodes), "{}", "detached"]
    with (directory / "supervisor.out").open("w") as errors:  # not ours: who waits for our end must not wait for its
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    assert supervisor.stdout is not None
    answered = supervisor.stdout.readline().strip()
    if answered != "ok":
        remove_cluster(directory)
        raise SystemExit(f"no cluster: {json.loads(answered) if answered else 'its supervisor died'}")
    print(f"export SLURM_CONF={directory}/slurm.conf")


def down(directory: Path) -> None:
    """Stop and remove the cluster in `directory`."""
    if not (directory / "slurm.conf").exists():
        raise SystemExit(f"{directory} holds no cluster")
    if pid := living_supervisor(directory):
        os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not directory.exists(), "the cluster to go")
    remove_cluster(directory)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["up", directory]:
            if reason := unavailable_reason():
                raise SystemExit(reason)
            up(Path(directory).absolute(), 2)
        case ["down", directory]:
            down(Path(directory).absolute())
        case _:
            raise SystemExit(f"usage: {sys.argv[0]} up DIR | down DIR")
