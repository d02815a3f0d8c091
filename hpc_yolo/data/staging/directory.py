"""The layout of staged copies in a stage directory: private directories, locks, the removal of old copies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.files import read_struct, write_struct
from hpc_yolo.data.staging.plan import StagePlan

PREFIX = "hpc-yolo-"
LOCK_SUFFIX = ".lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MAX_UNUSED_S = 3 * 86400.0
PROGRESS_BYTES = 64
BLOCK_BYTES = 512  # in which a file system counts


class CompleteCopy(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a complete copy.

    Attributes:
        source: dataset that was copied.
        boot_id: of the node: what was in memory when a node went down is not in the files of the next boot.
    """

    source: str
    num_files: int
    total_bytes: int
    boot_id: str


class CopyLock:
    """The lock of one staged copy, which ends with the process; processes that are forked from it hold it too."""

    def __init__(self, path: Path) -> None:
        """Open the lock file `path`.

        Raises:
            OSError: it cannot be created.
        """
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def try_shared(self) -> bool:
        """Take the lock together with other users of the copy; return False if it is being made or removed.

        Raises:
            OSError: the file system has no locks.
        """
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take the lock alone; return False if another process has it.

        Raises:
            OSError: the file system has no locks.
        """
        return self._try(fcntl.LOCK_EX)

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)

    def touch(self) -> None:
        """Record that the copy is used now."""
        os.utime(self._descriptor)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self._is_current()

    def _is_current(self) -> bool:
        """Return False if the file was removed since it was opened: others then lock another one."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self._path))
        except FileNotFoundError:
            return False


class StagedCopy:
    """One staged copy in the private directory `parent`."""

    def __init__(self, parent: Path, digest: str) -> None:
        self.parent = parent
        self.digest = digest
        self.path = parent / digest
        self.files = self.path / "files"
        self.decoded = self.path / "decoded"  # a cache of decoded images has this file instead of `files`
        self.lock_path = parent / f"{digest}{LOCK_SUFFIX}"
        self._marker = self.path / "complete.json"
        self._progress = self.path / "progress"

    def lock(self) -> CopyLock:
        """Return its lock, which is not held yet.

        Raises:
            OSError: the lock file cannot be created.
        """
        return CopyLock(self.lock_path)

    @property
    def record(self) -> CompleteCopy | None:
        """Its record if it is complete and of this boot of the node."""
        with contextlib.suppress(OSError):
            found = read_struct(self._marker, CompleteCopy)
            return found if found is not None and found.boot_id == boot_id() else None
        return None

    def file(self, path: str) -> str:
        """Return where the copy of the file with the absolute `path` is."""
        return f"{self.files}{path}"

    def start(self) -> None:
        """Make the directory of the copy, or keep what an interrupted process of this boot has copied.

        Raises:
            OSError: it cannot be made.
        """
        record = self.path / "boot"
        with contextlib.suppress(OSError):
            if self.path.is_dir() and record.read_text() != boot_id():
                shutil.rmtree(self.path)
        self.files.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.write_text(boot_id())

    def complete(self, plan: StagePlan, source: str) -> None:
        """Record that all files of `plan` are there.

        Raises:
            OSError: the record cannot be written.
        """
        record = CompleteCopy(source=source, num_files=len(plan.files), total_bytes=plan.total_bytes, boot_id=boot_id())
        write_struct(self._marker, record)

    def invalidate(self) -> None:
        """Remove the record that it is complete."""
        self._marker.unlink(missing_ok=True)

    def write_progress(self, done_bytes: int) -> None:
        """Record how far the copy is, for those that wait for it; errors of the disk are ignored."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._progress, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, str(done_bytes).encode().ljust(PROGRESS_BYTES), 0)
            finally:
                os.close(descriptor)

    def read_progress(self) -> int:
        """Return how many bytes another process has copied, 0 where that is not known."""
        try:
            return int(self._progress.read_bytes())
        except (OSError, ValueError):
            return 0

    def remove(self) -> None:
        """Remove the copy; its lock must be held exclusively. Errors of the disk are ignored."""
        with contextlib.suppress(OSError):
            self.invalidate()
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not self.path.exists():
                self.lock_path.unlink(missing_ok=True)

    @property
    def cache_bytes(self) -> int | None:
        """Bytes on the disk if it is a cache of decoded images."""
        with contextlib.suppress(OSError):
            return self.decoded.stat().st_blocks * BLOCK_BYTES
        return None

    @property
    def unused_s(self) -> float:
        """Seconds since it was used last."""
        for path in (self.lock_path, self.path):  # the lock file may have been removed
            with contextlib.suppress(OSError):
                return time.time() - path.stat().st_mtime
        return 0.0


def boot_id() -> str:
    """Return a text that is another one after each boot of this machine."""
    return BOOT_ID.read_text().strip()


def private_path(directory: Path) -> Path:
    """Return the private directory of this user below `directory`, which may not exist."""
    return directory / f"{PREFIX}{os.getuid()}"


def private_directory(directory: Path) -> Path:
    """Return the private directory for staged copies below `directory`, which is made if its parent exists.

    Raises:
        DataError: `directory` is no directory, or the private one belongs to somebody else or is a link.
        OSError: it cannot be made.
    """
    if not directory.is_dir():
        if not directory.parent.is_dir():
            raise DataError(f"there is no directory {directory}")
        directory.mkdir(mode=0o700, exist_ok=True)
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise DataError(f"everybody may replace files in {directory} (its mode has no sticky bit)")
    path = private_path(directory)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise DataError(f"{path} is not a directory")
    if found.st_uid != os.getuid():
        raise DataError(f"{path} belongs to user {found.st_uid}")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def staged_copies(parent: Path) -> list[StagedCopy]:
    """Return the copies in the private directory `parent`, the longest unused first."""
    # Whatever cleans a /tmp may have removed the lock file of a copy.
    found = (path for path in parent.glob("*") if path.suffix == LOCK_SUFFIX or path.is_dir())
    copies = [StagedCopy(parent, digest) for digest in {path.name.removesuffix(LOCK_SUFFIX) for path in found}]
    return sorted(copies, key=lambda copy: -copy.unused_s)


def is_used(copy: StagedCopy) -> bool:
    """Return True if a process makes, uses or removes `copy`."""
    if not copy.lock_path.exists():  # do not create it here: its time is that of the last use
        return False
    with held_alone(copy) as is_mine:
        return not is_mine


@contextlib.contextmanager
def held_alone(copy: StagedCopy) -> Iterator[bool]:
    """Hold the lock of `copy` exclusively within the block; give False if another process uses it."""
    try:
        lock = copy.lock()
    except OSError:
        yield False
        return
    try:
        is_mine = False
        with contextlib.suppress(OSError):
            is_mine = lock.try_exclusive()
        yield is_mine
    finally:
        lock.close()


def remove_unused(parent: Path, *, keep: str = "", min_unused_s: float = MAX_UNUSED_S) -> list[StagedCopy]:
    """Remove the copies in `parent` that no process uses and that were not used for `min_unused_s`; return them.

    Args:
        keep: the digest of one that stays.
    """
    removed = []
    for copy in staged_copies(parent):
        if copy.digest == keep or copy.unused_s < min_unused_s:
            continue
        with held_alone(copy) as is_mine:
            if is_mine:
                copy.remove()
                removed.append(copy)
    return removed
