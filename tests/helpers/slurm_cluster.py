"""A private real Slurm cluster on this machine: its own munge, database, ports and directory, nothing under /etc.

Two nodes, gpu01 and gpu02, of eight CPUs and four pretend GPUs each; partitions `gpu` (default), `preempt` and `high`.
Each slurmd lives in a mount and host-name namespace of its own, so that inside a job the node is called gpu01, gpu01
and gpu02 resolve, and the nodes have different boot ids, while this machine's own files stay as they are.

For people, as root:

    eval "$(python tests/helpers/slurm_cluster.py up /tmp/slurm)"   # exports SLURM_CONF; then sinfo, sbatch, ...
    python tests/helpers/slurm_cluster.py down /tmp/slurm

All daemons belong to a supervisor process, `slurm_daemons.py`, which also ends them when nobody is left to ask for it.
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
    """Why no cluster can be brought up here; None where one can."""
    if os.geteuid() != 0:
        return "the test cluster needs root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (tests/helpers/install_packages.sh)"
    tried = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class SlurmCluster:
    """The tests' side: starts a supervisor, talks to it, and runs Slurm's commands against its cluster."""

    def __init__(
        self, num_nodes: int = 2, directory: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings` are lines of slurm.conf: they replace those of the same name and are added to the others."""
        self.settings = dict(settings or {})
        self.nodes = [f"gpu{number:02d}" for number in range(1, num_nodes + 1)]
        self.directory = directory or Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
        self._supervisor: subprocess.Popen[str] | None = None

    @property
    def version(self) -> tuple[int, int]:
        """The generation of this cluster's Slurm, such as (26, 5)."""
        version = installed_version()
        assert version is not None
        return version

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    @property
    def supervisor_pid(self) -> int | None:
        return None if self._supervisor is None else self._supervisor.pid

    def start(self) -> None:
        """Bring everything up and wait until all nodes are idle."""
        sweep_dead_clusters()
        words = [sys.executable, str(SUPERVISOR), str(self.directory), str(len(self.nodes)), json.dumps(self.settings)]
        self._supervisor = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._expect_ok()

    def stop(self) -> None:
        """Take everything down and away. Again is harmless."""
        if self._supervisor is not None:
            self._supervisor.communicate(timeout=PATIENCE_S)  # closes its input, which is the word to leave
            self._supervisor = None
        remove_cluster(self.directory)

    def stop_daemon(self, name: str, signal_number: int = signal.SIGTERM) -> None:
        """End `munged`, `mariadbd`, `slurmdbd`, `slurmctld`, or a node's slurmd, named by its node, and wait for it.

        The steps of a node outlive its slurmd, as they do on a real one.
        """
        self._ask("stop", name, int(signal_number))

    def start_daemon(self, name: str) -> None:
        """Start a stopped daemon again and wait until it answers; does nothing to one that runs."""
        self._ask("start", name)

    def lose_node(self, name: str) -> None:
        """Kill everything on a node at once, its slurmd too; `start_daemon` brings it back."""
        self._ask("lose", name)

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
        timeout_s: float = PATIENCE_S,
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
        """Queue a script given as text; its job id. Its output goes into the cluster's directory."""
        path = self.directory / f"job-{random.getrandbits(32):08x}.sh"
        path.write_text(script)
        log = f"--output={self.directory}/%j.out"
        return self.run("sbatch", "--parsable", log, *options, str(path)).strip()

    def output(self, job_id: str) -> str:
        """What a job queued with `submit` has written so far."""
        path = self.directory / f"{job_id}.out"
        return path.read_text() if path.exists() else ""

    def job_state(self, job_id: str) -> str:
        """Slurm's word for the state of a job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job_id, check=False)
        words = dict(word.partition("=")[::2] for word in shown.split())
        if "JobState" in words:
            return words["JobState"]
        return (self.run("sacct", "-nXP", f"--jobs={job_id}", "--format=State").split() or ["NONE"])[0]

    def wait_for_state(self, job_id: str, states: Collection[str] | str) -> str:
        """Wait until a job is in one of `states`; which. One that has ended for good otherwise is not waited for."""
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


def remove_cluster(directory: Path) -> None:
    """Kill whatever belongs to the cluster in `directory` and remove the directory, for one that did not do so."""
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
    """The process id of the supervisor in `directory`, if that process is still it."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((directory / "supervisor.pid").read_text())
        if str(directory).encode() in Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0"):
            return pid
    return None


def processes_of(directory: Path) -> Iterator[int]:
    """Processes that name `directory` in their command line or have its SLURM_CONF, but for this one."""
    marks = [f"{directory}/".encode(), f"SLURM_CONF={directory}/slurm.conf".encode()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marks[0] in (entry / "cmdline").read_bytes() or marks[1] in (entry / "environ").read_bytes():
                    yield int(entry.name)


def up(directory: Path, num_nodes: int) -> None:
    """Bring up a cluster that outlives this command; prints what to type to use it."""
    sweep_dead_clusters()
    directory.mkdir(parents=True, exist_ok=False)
    words = [sys.executable, str(SUPERVISOR), str(directory), str(num_nodes), "{}", "detached"]
    with (directory / "supervisor.out").open("w") as errors:  # not ours: who waits for our end must not wait for its
        supervisor = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    assert supervisor.stdout is not None
    answered = supervisor.stdout.readline().strip()
    if answered != "ok":
        remove_cluster(directory)
        raise SystemExit(f"no cluster: {json.loads(answered) if answered else 'its supervisor died'}")
    print(f"export SLURM_CONF={directory}/slurm.conf")


def down(directory: Path) -> None:
    """Take down the cluster in `directory`."""
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
