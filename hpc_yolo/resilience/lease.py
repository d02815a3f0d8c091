"""One writer a run: an attempt takes the run's lease before it writes, and asks for it again before it publishes.

A lease is a file of its own, `leases/<attempt>.json`, created whole and exclusively (a hard link, which shared file
systems keep atomic too). Whoever takes over creates the next one and removes those before it, so that the loser finds
its own file gone: opening a file that is there is what NFS asks its server about. The file with the highest number is
never removed. A holder counts beats into its file: only a count that moves shows that it lives, whatever clocks say.

Between asking and publishing a process may be stopped for minutes. The taker therefore also removes what an earlier
holder has ready in `checkpoints/` but for its name: that rename then finds nothing to rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hpc_yolo.cluster.jobs import slurm_job_state
from hpc_yolo.cluster.local_process import machine_id, process_start
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import LeaseError, RunError, SchedulerUnavailable
from hpc_yolo.core.files import file_mode, make_directory, remove_unpublished, sync_directory
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events

WATCH_S = 10.0  # how long a newcomer looks whether the holder's beats move
BEAT_S = 2.0
POLL_S = 0.2
READ_TRIES, RETRY_S = 5, 0.02
RECORD_BYTES = 4096  # of fixed size, so that it can be written over in place
_NAME = re.compile(r"(\d+)\.json")


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lease.

    Attributes:
        machine: see `machine_id`; host names are for people.
        pid_start: in ticks since the machine's start; None where it cannot be told.
        cluster: the Slurm cluster that knows `job_id`; None where it is no job of Slurm's.
        restart: Slurm's count of the job's starts, from 1.
        beats: moves while the holder lives.
        released: it has left in good order.
    """

    attempt: int
    nonce: str
    host: str
    machine: str
    pid: int
    pid_start: int | None
    job_id: str | None
    cluster: str | None
    restart: int
    beats: int = 0
    released: bool = False

    @property
    def name(self) -> str:
        """For a sentence."""
        job = "" if self.job_id is None else f" of job {self.job_id}"
        return f"attempt {self.attempt}{job} on {self.host} (process {self.pid})"

    def is_same_job(self, other: Holder) -> bool:
        """Whether Slurm started both as the same job, though perhaps not at the same time."""
        mine, others = (self.cluster, self.job_id), (other.cluster, other.job_id)
        return mine == others and None not in mine


class Lease:
    """The right of this attempt to write into its run directory."""

    def __init__(self, directory: Path, holder: Holder) -> None:
        self._directory = directory
        self._path = _path(directory, holder.attempt)
        self._holder = holder
        self._lock = threading.Lock()

    @property
    def attempt(self) -> int:
        """The number of this start of the run, from 1."""
        return self._holder.attempt

    def require(self) -> None:
        """Return if nobody has taken over, so that this attempt may publish what it has ready.

        Raises:
            LeaseError: another attempt has taken over.
            OSError: the file system does not answer; whether anybody has taken over is not known.
        """
        found = _read(self._path)
        if found is None or found.nonce != self._holder.nonce:
            raise LeaseError(f"{self._successor()}; attempt {self.attempt} leaves and writes nothing more")

    def beat(self) -> None:
        """Show that this attempt lives. A disk's errors are passed over."""
        self._change(beats=self._holder.beats + 1)

    def release(self) -> None:
        """Let the next attempt begin at once; nothing may be published after this."""
        self._change(released=True)

    def _change(self, **fields: object) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._holder = msgspec.structs.replace(self._holder, **fields)
            # Over the file that is there, never a new one: that would bring back what a newcomer has removed.
            descriptor = os.open(self._path, os.O_RDWR)
            try:
                found = _decode(os.pread(descriptor, RECORD_BYTES, 0))
                if found is None or found.nonce == self._holder.nonce:  # what cannot be read, no newcomer wrote
                    os.pwrite(descriptor, _encode(self._holder), 0)
            finally:
                os.close(descriptor)

    def _successor(self) -> str:
        newest = max(_numbers(self._directory), default=0)
        holder = _read(_path(self._directory, newest)) if newest else None
        if holder is None:
            return f"the lease {self._path} was removed"
        return f"another start of this run, {holder.name}, has taken over"


class HeartBeat:
    """Beats in a thread while the block runs, then releases the lease."""

    def __init__(self, lease: Lease, interval_s: float = BEAT_S) -> None:
        self._lease = lease
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)

    def __enter__(self) -> HeartBeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._lease.release()

    def _work(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._lease.beat()


def take_lease(
    run: RunDirectory,
    process: ProcessInfo,
    *,
    watch_s: float = WATCH_S,
    job_is_over: Callable[[str], bool] | None = None,
) -> Lease:
    """The lease of `run`'s next attempt, once nobody else has it.

    Args:
        watch_s: how long to look whether the holder lives, where nothing else tells.
        job_is_over: whether Slurm says that a job has ended; asks Slurm unless given.

    Raises:
        LeaseError: another attempt holds it and lives, or Slurm has started this job anew since.
        RunError: the run directory cannot be read or written.
    """
    newcomer = _newcomer(process)
    try:
        make_directory(run.leases)
        # Read before the leases are listed: the lease of an attempt is there before its first event.
        earlier = 0 if _numbers(run.leases) else _last_attempt_told(run)
        while True:
            newest = _find_free(run.leases, newcomer, watch_s, job_is_over or _job_is_over)
            lease = None if newest is None else _create(run, newcomer, max(newest, earlier) + 1)
            if lease is not None:
                return lease
            time.sleep(POLL_S)
    except OSError as error:
        raise RunError(
            f"{run.leases}: the lease of this run cannot be taken: {error.strerror or error}",
            hint="is there room, and is it a file system with hard links that all nodes see?",
        ) from error


def last_holder(run: RunDirectory) -> Holder | None:
    """Who took the run's newest lease, and may hold it still."""
    numbers = _numbers(run.leases)
    return _read(_path(run.leases, max(numbers))) if numbers else None


def is_gone(holder: Holder, newcomer: Holder, job_is_over: Callable[[str], bool]) -> bool:
    """Whether it is known, without watching it, that `holder` writes no more or may not.

    Where Slurm started the same job again, the holder is an orphan on a node that Slurm has lost.
    """
    if holder.released:
        return True
    is_local = holder.machine == newcomer.machine and holder.pid_start is not None
    if is_local and process_start(holder.pid) != holder.pid_start:
        return True
    if holder.is_same_job(newcomer):
        return newcomer.restart > holder.restart
    if holder.job_id is None or holder.cluster is None or holder.cluster != newcomer.cluster:
        return False  # nobody here can tell
    return job_is_over(holder.job_id)


def _newcomer(process: ProcessInfo) -> Holder:
    """This process, before it has a lease."""
    is_slurms = process.job_id is not None and process.launcher != "submitit-local"
    return Holder(
        attempt=0,
        nonce=secrets.token_hex(16),
        host=socket.gethostname() if process.host is None else process.host,
        machine=machine_id(),
        pid=os.getpid(),
        pid_start=process_start(os.getpid()),
        job_id=process.job_id,
        cluster=current_environment().get("SLURM_CLUSTER_NAME") if is_slurms else None,
        restart=process.attempt,
    )


def _find_free(directory: Path, newcomer: Holder, watch_s: float, job_is_over: Callable[[str], bool]) -> int | None:
    """The newest number, now that its holder is gone; 0 where there is none, None where it changed meanwhile."""
    newest = max(_numbers(directory), default=0)
    if newest == 0:
        return 0
    path = _path(directory, newest)
    content = _content(path)
    if content is None:
        return None
    holder = _decode(content)
    if holder is not None and holder.is_same_job(newcomer) and holder.restart > newcomer.restart:
        raise LeaseError(
            f"Slurm has started job {holder.job_id} again since, as {holder.name}; this start is an orphan, it leaves "
            "and has changed nothing"
        )
    if holder is not None and is_gone(holder, newcomer, job_is_over):
        return newest
    return newest if _stands_still(path, content, watch_s) else None


def _stands_still(path: Path, content: bytes, watch_s: float) -> bool:
    """Whether the lease with `content` shows no sign of life for `watch_s`; False when it is released or removed.

    Raises:
        LeaseError: its holder lives.
    """
    deadline_s = time.monotonic() + watch_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        time.sleep(min(POLL_S, left_s))
        now = _content(path)
        if now is None:
            return False
        holder = None if now == content else _decode(now)
        if holder is not None and holder.released:
            return False
        if holder is not None:
            raise LeaseError(
                f"{holder.name} is training this run; this start leaves and has changed nothing",
                hint="one start at a time: follow that one, or cancel it first",
            )
    return True


def _create(run: RunDirectory, newcomer: Holder, attempt: int) -> Lease | None:
    """The lease of `attempt`, all earlier ones removed; None where somebody else was quicker."""
    directory, path = run.leases, _path(run.leases, attempt)
    holder = msgspec.structs.replace(newcomer, attempt=attempt)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), file_mode(directory))
            file.write(_encode(holder))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return None
    finally:
        Path(temporary).unlink(missing_ok=True)
    numbers = _numbers(directory)
    if any(number > attempt for number in numbers):
        # Ours was free only because it had been held, followed and removed since we looked.
        path.unlink(missing_ok=True)
        return None
    for number in numbers:
        if number < attempt:
            _path(directory, number).unlink(missing_ok=True)
    sync_directory(directory)
    lease = Lease(directory, holder)
    lease.require()  # else what is removed next may be that of a successor
    remove_unpublished(run.checkpoints)
    return lease


def _last_attempt_told(run: RunDirectory) -> int:
    """The last attempt in the journal, of a run that began before there were leases or lost them; 0 for none."""
    return max((event.attempt for event in read_events(run.journal)), default=0)


def _job_is_over(job_id: str) -> bool:
    """Whether Slurm knows the job and knows it ended."""
    try:
        state = slurm_job_state(job_id)
    except SchedulerUnavailable:
        return False
    return state is not None and state.is_over


def _numbers(directory: Path) -> list[int]:
    """The attempts that have a lease."""
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]


def _read(path: Path) -> Holder | None:
    """The record in `path`; None where there is no such file.

    Raises:
        OSError: it cannot be read, or not be understood, at several tries: it may just be written over.
    """
    for _ in range(READ_TRIES - 1):
        with contextlib.suppress(OSError):
            return _read_once(path)
        time.sleep(RETRY_S)
    return _read_once(path)


def _read_once(path: Path) -> Holder | None:
    content = _content(path)
    holder = None if content is None else _decode(content)
    if content is not None and holder is None:
        raise OSError(errno.EIO, "it is no lease, or is damaged", str(path))
    return holder


def _content(path: Path) -> bytes | None:
    """The bytes in `path` now; None where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _decode(content: bytes) -> Holder | None:
    """The record in `content`; None where that is torn or damaged."""
    try:
        return msgspec.json.decode(content, type=Holder)
    except msgspec.MsgspecError:
        return None


def _encode(holder: Holder) -> bytes:
    return msgspec.json.encode(holder).ljust(RECORD_BYTES)


def _path(directory: Path, attempt: int) -> Path:
    return directory / f"{attempt:06d}.json"
