"""One writer a run: an attempt takes the run's lease before it writes, and checks it again before it publishes.

A lease is a file of its own, `leases/<attempt>.json`, created whole and exclusively by a hard link, which is atomic on
shared file systems too. An attempt that takes over creates the next file and removes those before it, so that the
earlier holder finds its own file gone: NFS asks its server whenever a file is opened. The file with the highest number
is never removed. A holder counts heartbeats in its file: only a count that changes shows that it lives, since clocks of
machines differ.

Between its check and its rename a process may be stopped for minutes. An attempt that takes over therefore also removes
temporary files of an earlier holder in `checkpoints/`: that rename then finds nothing to rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hpc_yolo.cluster.jobs import job_has_ended
from hpc_yolo.cluster.local_process import machine_id, process_start
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import LeaseError, RunError
from hpc_yolo.core.files import create_exclusive, make_directory, remove_unpublished, sync_directory
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events

WATCH_S = 10.0  # how long a newcomer watches the holder's heartbeats
HEARTBEAT_S = 2.0
POLL_S = 0.2
READ_TRIES, RETRY_S = 5, 0.02
RECORD_BYTES = 4096  # of fixed size, so that it can be overwritten in place
_NAME = re.compile(r"(\d+)\.json")
_first_seen: dict[Path, tuple[bytes, float]] = {}  # the content of each lease that this process watches, and since when


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Record of the holder of a lease.

    Attributes:
        machine: see `machine_id`; host names are for messages.
        pid_start: when the process began, in ticks since the machine's boot; None where that is not known.
        cluster: the Slurm cluster of `job_id`; None where that is no Slurm job.
        restart: number of the job's start, from 1.
        heartbeats: increases while the holder lives.
        released: the holder has ended in good order.
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
    heartbeats: int = 0
    released: bool = False

    @property
    def name(self) -> str:
        """Description of the holder for a message."""
        job = "" if self.job_id is None else f" of job {self.job_id}"
        return f"attempt {self.attempt}{job} on {self.host} (process {self.pid})"

    def is_same_job(self, other: Holder) -> bool:
        """Return True if both belong to the same Slurm job, though perhaps to different starts of it."""
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
        """The number of this attempt of the run, from 1."""
        return self._holder.attempt

    def require(self) -> None:
        """Return if this attempt still holds the lease, and so may publish what it has ready.

        Raises:
            LeaseError: another attempt has taken over.
            OSError: the file system does not answer; whether another attempt has taken over is not known.
        """
        found = _read(self._path)
        if found is None or found.nonce != self._holder.nonce:
            raise LeaseError(f"{self._successor()}; attempt {self.attempt} ends and writes nothing more")

    def heartbeat(self) -> None:
        """Count one heartbeat. Errors of the disk are ignored."""
        self._change(heartbeats=self._holder.heartbeats + 1)

    def release(self) -> None:
        """Mark the lease as released, so that the next attempt begins at once; publish nothing after this."""
        self._change(released=True)

    def _change(self, **fields: object) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._holder = msgspec.structs.replace(self._holder, **fields)
            # Overwrite the existing file, never create one: that would bring back what a newcomer has removed.
            descriptor = os.open(self._path, os.O_RDWR)
            try:
                found = _decode(os.pread(descriptor, RECORD_BYTES, 0))
                if found is None or found.nonce == self._holder.nonce:  # a newcomer's would be readable
                    os.pwrite(descriptor, _encode(self._holder), 0)
            finally:
                os.close(descriptor)

    def _successor(self) -> str:
        newest = max(_numbers(self._directory), default=0)
        holder = _read(_path(self._directory, newest)) if newest else None
        if holder is None:
            return f"the lease {self._path} was removed"
        return f"another attempt of this run, {holder.name}, has taken over"


class Heartbeat:
    """Counts heartbeats in a thread while the block runs, then releases the lease."""

    def __init__(self, lease: Lease, interval_s: float = HEARTBEAT_S) -> None:
        self._lease = lease
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._lease.release()

    def _work(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._lease.heartbeat()


def take_lease(
    run: RunDirectory,
    process: ProcessInfo,
    *,
    watch_s: float = WATCH_S,
    job_is_over: Callable[[str], bool] | None = None,
) -> Lease:
    """Return the lease of the next attempt of `run`, once no other attempt holds it.

    Args:
        watch_s: how long to watch for heartbeats of the holder, where nothing else shows that it has ended.
        job_is_over: returns True for a job that has ended; asks Slurm unless given.

    Raises:
        LeaseError: another attempt holds it and lives, or Slurm has started this job again since.
        RunError: the run directory cannot be read or written.
    """
    newcomer = _newcomer(process)
    try:
        make_directory(run.leases)
        # Read before the leases are listed: the lease of an attempt is there before its first event.
        earlier = 0 if _numbers(run.leases) else _last_journaled_attempt(run)
        while True:
            newest = _find_free(run.leases, newcomer, watch_s, job_is_over or job_has_ended)
            lease = None if newest is None else _create(run, newcomer, max(newest, earlier) + 1)
            if lease is not None:
                return lease
            time.sleep(POLL_S)
    except OSError as error:
        raise RunError(
            f"{run.leases}: the lease of this run cannot be taken: {error.strerror or error}",
            hint="is there room, and is it a file system with hard links that all nodes see?",
        ) from error


def require_free(run: RunDirectory, process: ProcessInfo) -> None:
    """Check that no living attempt holds `run`, before its files are changed; only `take_lease` excludes others.

    Raises:
        LeaseError: as `take_lease`.
    """
    with contextlib.suppress(OSError):
        _find_free(run.leases, _newcomer(process), WATCH_S, job_has_ended)


def last_holder(run: RunDirectory) -> Holder | None:
    """Return the holder of the run's newest lease, which may have ended; None where there was none."""
    numbers = _numbers(run.leases)
    return _read(_path(run.leases, max(numbers))) if numbers else None


def is_gone(holder: Holder, newcomer: Holder, job_is_over: Callable[[str], bool]) -> bool:
    """Return True if it is known, without watching it, that `holder` has ended or may no longer write.

    Where Slurm has started the same job again, the holder is an orphan on a node that Slurm has lost.
    """
    if holder.released:
        return True
    is_local = holder.machine == newcomer.machine and holder.pid_start is not None
    if is_local and process_start(holder.pid) != holder.pid_start:
        return True
    if holder.is_same_job(newcomer):
        return newcomer.restart > holder.restart
    if holder.job_id is None or holder.cluster is None or holder.cluster != newcomer.cluster:
        return False  # not known on this machine
    return job_is_over(holder.job_id)


def _newcomer(process: ProcessInfo) -> Holder:
    """Return the record of this process, before it has a lease."""
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
    """Return the newest number if its holder has ended, 0 where there is none, None where it changed meanwhile."""
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
            f"Slurm has started job {holder.job_id} again since, as {holder.name}; this process is an orphan: it ends "
            "and has changed nothing"
        )
    if holder is not None and is_gone(holder, newcomer, job_is_over):
        return newest
    return newest if _is_unchanged(path, content, watch_s) else None


def _is_unchanged(path: Path, content: bytes, watch_s: float) -> bool:
    """Return True if the lease keeps its `content` for `watch_s`; False when it is released or removed.

    The time counts from the first call with that content: `take_lease` does not repeat the watch of `require_free`.

    Raises:
        LeaseError: its holder lives.
    """
    known, since_s = _first_seen.get(path, (None, 0.0))
    if known != content:
        since_s = time.monotonic()
        _first_seen[path] = content, since_s
    deadline_s = since_s + watch_s
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
                f"{holder.name} is training this run; this process ends and has changed nothing",
                hint="one attempt at a time: follow that one, or cancel it first",
            )
    return True


def _create(run: RunDirectory, newcomer: Holder, attempt: int) -> Lease | None:
    """Create the lease of `attempt` and remove all earlier ones; return None where another process was quicker."""
    directory, path = run.leases, _path(run.leases, attempt)
    holder = msgspec.structs.replace(newcomer, attempt=attempt)
    if not create_exclusive(path, _encode(holder)):
        return None
    numbers = _numbers(directory)
    if any(number > attempt for number in numbers):
        # The number was free only because it had been held, followed and removed since it was read.
        path.unlink(missing_ok=True)
        return None
    for number in numbers:
        if number < attempt:
            _path(directory, number).unlink(missing_ok=True)
    sync_directory(directory)
    lease = Lease(directory, holder)
    lease.require()  # else the files removed next may be a successor's
    remove_unpublished(run.checkpoints)
    return lease


def _last_journaled_attempt(run: RunDirectory) -> int:
    """Return the last attempt in the journal, for a run that has lost its leases; 0 for none."""
    return max((event.attempt for event in read_events(run.journal)), default=0)


def _numbers(directory: Path) -> list[int]:
    """Return the attempts that have a lease."""
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]


def _read(path: Path) -> Holder | None:
    """Return the record in `path`; None where there is no such file.

    Raises:
        OSError: it cannot be read or decoded at several tries: it may just be overwritten.
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
        raise OSError(errno.EIO, "not a lease, or damaged", str(path))
    return holder


def _content(path: Path) -> bytes | None:
    """Return the bytes in `path`; None where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _decode(content: bytes) -> Holder | None:
    """Return the record in `content`; None where that is torn or damaged."""
    try:
        return msgspec.json.decode(content, type=Holder)
    except msgspec.MsgspecError:
        return None


def _encode(holder: Holder) -> bytes:
    return msgspec.json.encode(holder).ljust(RECORD_BYTES)


def _path(directory: Path, attempt: int) -> Path:
    return directory / f"{attempt:06d}.json"
