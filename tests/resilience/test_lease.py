"""Two starts of one run never both write: in real processes, with real signals."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest
from waiting import PATIENCE_S, wait_until

from hpc_yolo.cluster.local_process import machine_id, process_start
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import LeaseError, RunError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.resilience import lease as room
from hpc_yolo.resilience.lease import Heartbeat, Holder, Lease, is_gone, last_holder, take_lease
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import WarningRaised
from hpc_yolo.runs.journal import JournalWriter

CLUSTER = "SLURM_CLUSTER_NAME"

# Takes the lease, prints its attempt, and then publishes each line that it reads; ends with the exit code of its error.
HOLDER = """
import sys
from pathlib import Path
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.resilience.lease import Heartbeat, take_lease
from hpc_yolo.runs.directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
job = {"job_id": sys.argv[2], "attempt": int(sys.argv[3])}
process = ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "slurm", **job)
try:
    own = take_lease(run, process, watch_s=float(sys.argv[4]), job_is_over=lambda job: False)
    with Heartbeat(own, interval_s=0.05):
        print(own.attempt, flush=True)
        for line in sys.stdin:
            write_atomic(run.checkpoints / "published", line, before_publish=own.require)
            print("published", flush=True)
except HpcYoloError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""

NUM_TAKEOVERS = 60
# Takes the run from whoever has it, again and again, publishes until it is taken away, and looks for what others wrote.
RAIDER = """
import sys
from pathlib import Path
from hpc_yolo.resilience import lease
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import LeaseError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.runs.directory import RunDirectory
lease.POLL_S = 0.001
run, end = RunDirectory(Path(sys.argv[1])), Path(sys.argv[1], "end")
process = ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "slurm", job_id=sys.argv[2])
path = run.checkpoints / "published"
while not end.exists():
    try:
        own = lease.take_lease(run, process, watch_s=0, job_is_over=lambda job: True)
    except LeaseError:
        continue  # followed before it could begin
    print(own.attempt, flush=True)
    try:
        while not end.exists():
            before = int(path.read_text()) if path.exists() else 0
            write_atomic(path, str(own.attempt), before_publish=own.require)
            after = int(path.read_text())
            if after < own.attempt:
                sys.exit(f"attempt {own.attempt} published, and then found the word of {after} there")
    except (LeaseError, FileNotFoundError):
        pass
"""


@pytest.fixture
def run(tmp_path) -> Iterator[RunDirectory]:
    run = RunDirectory(tmp_path / "run")
    run.create()
    yield run
    left = list(run.leases.iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in [run.leases, *left]), "a lease is its owner's alone"
    assert len(left) <= 1, "there is one file, and nothing half done"


@pytest.fixture
def start(run):
    """Start a holder as task of a Slurm job; what is left is killed."""
    started = []

    def begin(job_id: str = "7", restart: int = 1, watch_s: float = 1.0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(run.path), job_id, str(restart), str(watch_s)]
        pipe, variables = subprocess.PIPE, {**os.environ, CLUSTER: "here"}
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1, env=variables)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def in_the_cluster(monkeypatch):
    monkeypatch.setenv(CLUSTER, "here")


def task(job_id: str | None = "7", restart: int = 1, launcher: str = "slurm") -> ProcessInfo:
    return ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, launcher, job_id=job_id, attempt=restart)


def take(run, *arguments, is_over=False, **settings) -> Lease:
    return take_lease(run, task(*arguments), job_is_over=lambda _job: is_over, **settings)


def say(process, line: str) -> None:
    process.stdin.write(line)
    process.stdin.flush()


def end(process) -> tuple[int, str]:
    """(exit code, what it complained of) once there is nothing more to publish."""
    process.stdin.close()
    process.stdin = None
    _, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, errors


HERE = {"machine": machine_id(), "pid": os.getpid(), "pid_start": process_start(os.getpid())}
ELSEWHERE = {"machine": "another", "pid": 2**22 + 1, "pid_start": 1}
NEWCOMER = Holder(attempt=0, nonce="n", host="a", job_id="8", cluster="here", restart=2, **HERE)


@pytest.mark.parametrize(
    ("holder", "over", "expected"),
    [
        ({}, (), False),
        ({"released": True}, (), True),
        ({"machine": HERE["machine"]}, (), True),  # its process is no more
        (HERE, (), False),
        ({**HERE, "pid_start": 1}, (), True),  # the number was given again
        ({**HERE, "pid": ELSEWHERE["pid"], "pid_start": None}, (), False),  # a system that tells nothing of processes
        ({"job_id": "8", "restart": 1}, (), True),  # Slurm started it anew: an orphan, even if it lives
        ({**HERE, "job_id": "8", "restart": 1}, (), True),
        ({"job_id": "8", "restart": 2}, ("8",), False),  # twice in one job
        ({"job_id": "8", "restart": 1, "cluster": "there"}, ("8",), False),
        ({"job_id": "8", "restart": 1, "cluster": None}, ("8",), False),  # a process id of a local run, say
        ({}, ("7",), True),
        ({}, ("8",), False),
        ({"cluster": "there"}, ("7",), False),  # another cluster's job 7
        ({"cluster": None}, ("7",), False),
        ({"job_id": None, "cluster": None}, ("None",), False),
    ],
)
def test_holders_known_to_have_ended_without_watching(holder, over, expected):
    fields = {"attempt": 1, "nonce": "n", "host": "a", "job_id": "7", "cluster": "here", "restart": 1, **ELSEWHERE}
    assert is_gone(Holder(**(fields | holder)), NEWCOMER, over.__contains__) is expected


@pytest.mark.parametrize(
    ("process", "cluster"),
    [
        (task("7"), "here"),
        (task("7", launcher="torchrun"), "here"),
        (task("4711", launcher="submitit-local"), None),  # a process id, whatever job Slurm gives that number
        (task(None, launcher="single"), None),
    ],
)
def test_only_slurm_jobs_record_their_cluster(run, process, cluster):
    take_lease(run, process, job_is_over=lambda _job: False)
    (path,) = run.leases.iterdir()
    assert msgspec.json.decode(path.read_bytes(), type=Holder).cluster == cluster


def test_of_many_simultaneous_processes_one_gets_the_lease(start, run):
    """A person typed sbatch several times."""
    started = [start(job_id=str(number), watch_s=20) for number in range(20)]
    wait_until(lambda: sum(process.poll() is None for process in started) <= 1, "all but one to leave")
    (winner,) = [process for process in started if process.poll() is None]
    losers = [process for process in started if process is not winner]
    assert {process.returncode for process in losers} == {LeaseError.exit_code}
    assert all("is training this run; this process ends" in process.stderr.read() for process in losers)
    assert winner.stdout.readline() == "1\n"
    say(winner, "mine\n")
    assert winner.stdout.readline() == "published\n"
    assert end(winner) == (0, "")
    assert (run.checkpoints / "published").read_text() == "mine\n"


def test_storm_of_takeovers_never_publishes_for_an_earlier_attempt(run):
    """Each takes the run from the one before in the middle of its publishing, some stopped there for a while."""
    command = [sys.executable, "-c", RAIDER, str(run.path)]
    pipe = subprocess.PIPE
    raiders = [subprocess.Popen([*command, str(number)], stdout=pipe, stderr=pipe, text=True) for number in range(5)]
    for raider in itertools.cycle(raiders):
        holder = last_holder(run)
        if (holder is not None and holder.attempt > NUM_TAKEOVERS) or any(one.poll() is not None for one in raiders):
            (run.path / "end").touch()
            break
        raider.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        raider.send_signal(signal.SIGCONT)
    ended = [raider.communicate(timeout=PATIENCE_S) for raider in raiders]
    assert [errors for _, errors in ended] == [""] * len(raiders)
    attempts = [int(line) for output, _ in ended for line in output.split()]
    assert len(attempts) > NUM_TAKEOVERS / 2, "there was no storm"
    assert len(set(attempts)) == len(attempts), "two had the same number"


def test_stopped_process_is_taken_over_and_publishes_nothing(start, run):
    orphan = start("7")
    assert orphan.stdout.readline() == "1\n"
    orphan.send_signal(signal.SIGSTOP)
    say(orphan, "stale\n")
    follower = start("8", watch_s=0.5)
    assert follower.stdout.readline() == "2\n"
    say(follower, "mine\n")
    assert follower.stdout.readline() == "published\n"
    orphan.send_signal(signal.SIGCONT)
    code, errors = end(orphan)
    assert code == LeaseError.exit_code
    assert "attempt 2 of job 8 on" in errors
    assert "attempt 1 ends" in errors
    assert (run.checkpoints / "published").read_text() == "mine\n"
    assert [path.stem for path in run.leases.iterdir()] == ["000002"]
    assert end(follower) == (0, ""), "the orphan's release was not its own"


def test_restarted_job_does_not_wait_for_its_orphan(start, run):
    """The node was lost, its processes live on: nothing shows that they are gone, and they need not be."""
    orphan = start("7")
    assert orphan.stdout.readline() == "1\n"
    again = start("7", restart=2, watch_s=1e9)
    assert again.stdout.readline() == "2\n"
    say(orphan, "stale\n")
    assert end(orphan)[0] == LeaseError.exit_code
    late = start("7", restart=1)  # that had hung since before it looked for a lease
    code, errors = end(late)
    assert code == LeaseError.exit_code
    assert "this process is an orphan" in errors
    assert not (run.checkpoints / "published").exists()
    assert end(again) == (0, "")


def test_killed_or_released_holder_is_followed_at_once(start, run):
    killed = start("7")
    assert killed.stdout.readline() == "1\n"
    killed.kill()
    killed.wait()
    with Heartbeat(take(run, "8", watch_s=1e9)):
        pass
    assert take(run, "9", watch_s=1e9).attempt == 3


def test_holder_whose_job_has_ended_is_followed_at_once(run):
    take(run, "7")
    assert take(run, "8", is_over=True, watch_s=1e9).attempt == 2


@pytest.mark.parametrize("event", ["released", "removed"])
def test_holder_that_ends_while_watched_is_followed_at_once(run, event):
    first = take(run, "7")
    leave = threading.Timer(0.3, first.release if event == "released" else next(run.leases.iterdir()).unlink)
    leave.start()
    again = take(run, "8", watch_s=1e9)
    leave.join()
    assert again.attempt == (2 if event == "released" else 1)
    with pytest.raises(LeaseError) if event == "released" else pytest.raises(LeaseError, match="another attempt"):
        first.require()


def test_late_heartbeat_does_not_restore_a_removed_lease(run):
    first = take(run, "7")
    second = take(run, "7", 2)
    first.heartbeat()
    first.release()
    second.require()
    with pytest.raises(LeaseError):
        write_atomic(run.checkpoints / "published", "stale", before_publish=first.require)
    assert list(run.checkpoints.iterdir()) == [], "neither the file nor its temporary one"


def test_heartbeat_does_not_change_the_lease_of_another_attempt(run):
    """Numbers are not given twice; should a file be put in the place of ours, it is another's all the same."""
    first = take(run, "7")
    (path,) = run.leases.iterdir()
    others = path.read_bytes().replace(first._holder.nonce.encode(), b"0" * 32)
    path.write_bytes(others)
    first.heartbeat()
    first.release()
    assert path.read_bytes() == others
    with pytest.raises(LeaseError):
        first.require()


def test_process_stopped_between_check_and_rename_publishes_nothing(run):
    """SIGSTOP for a minute falls anywhere, also between the last look at the lease and the rename."""
    first = take(run, "7")

    def allowed_and_then_late() -> None:
        first.require()
        take(run, "7", 2)

    with pytest.raises(FileNotFoundError):
        write_atomic(run.checkpoints / "published", "stale", before_publish=allowed_and_then_late)
    assert list(run.checkpoints.iterdir()) == []


def test_number_that_was_held_and_removed_is_not_reused(run):
    """A newcomer that found attempt 1 gone, and was stopped until attempts 2 and 3 had come and 2 was removed."""
    for restart in (1, 2, 3):
        newest = take(run, "7", restart)
    assert room._create(run, room._newcomer(task("8")), 2) is None
    newest.require()
    assert [path.stem for path in run.leases.iterdir()] == ["000003"]


def test_run_without_leases_counts_on_from_its_journal(run):
    JournalWriter(run.journal, attempt=6).write(WarningRaised(message="of an earlier version"))
    run.leases.rmdir()
    assert take(run, "7").attempt == 7


def test_damaged_lease_is_watched_and_then_followed(run):
    """The server of the files went down: the holder may be alive and puts its own record right with its next beat."""
    first = take(run, "7")
    (path,) = run.leases.iterdir()
    path.write_bytes(b"{" + bytes(100))
    with pytest.raises(OSError, match="damaged"):
        first.require()
    heartbeats = threading.Timer(0.3, first.heartbeat)
    heartbeats.start()
    with pytest.raises(LeaseError, match="is training this run"):
        take(run, "8", watch_s=1e9)
    heartbeats.join()
    first.require()
    path.write_bytes(b"")
    assert take(run, "8", watch_s=0.3).attempt == 2


@pytest.mark.parametrize(("code", "times"), [(errno.EIO, 2), (errno.ESTALE, 2), (errno.EIO, 99)])
def test_file_system_error_is_not_a_lost_lease(run, monkeypatch, code, times):
    """Only a lease that is gone is. A moment's trouble is waited for; more of it stops this publish alone."""
    own, left, read = take(run, "7"), itertools.chain(range(times), itertools.repeat(None)), room._content

    def failing(path):
        if next(left) is not None:
            raise OSError(code, os.strerror(code))
        return read(path)

    monkeypatch.setattr(room, "_content", failing)
    if times < room.READ_TRIES:
        own.require()
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            own.require()
    own.heartbeat()


def test_heartbeat_ignores_errors_of_the_disk(run, monkeypatch):
    own = take(run, "7")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with Heartbeat(own, interval_s=0.01):
        time.sleep(0.05)
    own.require()


def test_unwritable_lease_is_reported_in_one_sentence(run):
    run.leases.rmdir()
    run.leases.write_text("")
    with pytest.raises(RunError, match=r"lease of this run cannot be taken: (File exists|Not a directory)"):
        take(run, "7")
    run.leases.unlink()
    run.leases.mkdir(mode=0o700)
