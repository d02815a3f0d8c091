"""The copy of the files of a plan, in parallel threads; what an interrupted process has copied is not copied again."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.staging.directory import StagedCopy
from hpc_yolo.data.staging.plan import StagedFile, StagePlan

NUM_THREADS = 8
CHUNK_BYTES = 2**22
NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that do not support it
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class StopCopying(Exception):
    """The copy was asked to stop."""


class CopyProgress:
    """How far a copy is. Threads add to it.

    Attributes:
        done_bytes: of the files, including what was there before.
        total_bytes: of all files.
        copied_bytes: those that this process has copied.
        num_steps: grows with everything that is done, so that a copy that hangs can be recognised.
        is_stopped: ends the copy at the next chunk.
    """

    def __init__(self) -> None:
        self.done_bytes = 0
        self.total_bytes = 0
        self.copied_bytes = 0
        self.num_steps = 0
        self.is_stopped = threading.Event()
        self._lock = threading.Lock()

    def add(self, num_bytes: int = 0) -> None:
        """Count `num_bytes` more, and one step.

        Raises:
            StopCopying: the copy was asked to stop.
        """
        if self.is_stopped.is_set():
            raise StopCopying
        with self._lock:
            self.done_bytes += num_bytes
            self.copied_bytes += num_bytes
            self.num_steps += 1


def missing_files(plan: StagePlan, copy: StagedCopy) -> Iterator[tuple[StagedFile, int]]:
    """Yield (file, bytes of it that are there) of each file of `plan` that `copy` does not have whole.

    Files are written from their beginning, so that one of its size is whole.
    """
    for file in plan.files:
        try:
            found_bytes = os.lstat(copy.file(file.path)).st_size
        except OSError:
            found_bytes = -1
        if found_bytes != file.size_bytes:
            yield file, found_bytes if 0 <= found_bytes < file.size_bytes else 0


def copy_files(files: Iterable[StagedFile], copy: StagedCopy, progress: CopyProgress) -> None:
    """Copy `files` into `copy`.

    Raises:
        OSError: a file cannot be read or written.
        DataError: a file has changed since it was listed.
        StopCopying: `progress` was asked to stop.
    """
    files = list(files)
    for parent in sorted({os.path.dirname(file.path) for file in files}):  # noqa: PTH120, 10 times as fast
        Path(copy.file(parent)).mkdir(mode=0o700, parents=True, exist_ok=True)
    remaining = iter(files)
    is_failed = threading.Event()

    def work() -> None:
        for file in remaining:  # `next` of a list's iterator is atomic
            if is_failed.is_set():
                return
            try:
                copy_file(file, copy.file(file.path), progress)
            except BaseException:
                is_failed.set()
                raise

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        results = [pool.submit(work) for _ in range(min(NUM_THREADS, len(files)))]
    for result in results:
        result.result()


def copy_file(file: StagedFile, target: str, progress: CopyProgress) -> None:
    """Copy what `target` lacks of `file`.

    Raises:
        OSError: it cannot be read or written.
        DataError: the file has changed since it was listed.
        StopCopying: `progress` was asked to stop.
    """
    source_fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            offset = os.fstat(target_fd).st_size
            if offset > file.size_bytes:
                os.ftruncate(target_fd, 0)
                offset = 0
            os.lseek(target_fd, offset, os.SEEK_SET)
            while num_bytes := _copy_chunk(source_fd, target_fd, offset):
                offset += num_bytes
                progress.add(num_bytes)
        finally:
            os.close(target_fd)
    except OSError as error:
        error.filename = error.filename or (target if error.errno in FULL else file.path)
        raise
    finally:
        os.close(source_fd)
    if offset != file.size_bytes:
        raise DataError(f"{file.path} had {file.size_bytes} bytes when it was listed, and {offset} when it was copied")
    progress.add()


def _copy_chunk(source_fd: int, target_fd: int, offset: int) -> int:
    """Copy a chunk from `offset` of one file to the position of another, which is `offset` too; return its size."""
    try:
        return os.sendfile(target_fd, source_fd, offset, CHUNK_BYTES)  # half the CPU time of reading and writing
    except OSError as error:
        if error.errno not in NO_SENDFILE:
            raise
    return os.write(target_fd, os.pread(source_fd, CHUNK_BYTES, offset))
