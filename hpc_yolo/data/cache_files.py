"""The files of caches of decoded images: in the memory of a node, or on its local disk for the next attempts.

A file in memory has no name, so that none can be left behind. One on a disk is a staged copy of a kind: see `staging`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.files import unnamed_memory_file
from hpc_yolo.data.decoded import DecodedImages, SlotPlan
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.staging.directory import CopyLock, StagedCopy, private_directory, remove_unused
from hpc_yolo.data.staging.room import is_in_memory, is_local
from hpc_yolo.data.staging.where import JOB_VARIABLES

PROC = "/proc"
TEMPORARY = "/tmp"
VERSION = 1  # of decoding, resizing and the layout of the file
LOCK_TIMEOUT_S, LOCK_PAUSE_S = 5.0, 0.05  # another job makes or removes a cache in a few milliseconds


@dataclass(frozen=True)
class FileOfProcess:
    """An open file of a process on this node, for the other processes of its user.

    Attributes:
        inode: distinguishes the file from another one that a process of the same number has open, elsewhere.
    """

    pid: int
    descriptor: int
    inode: int


def new_memory_cache(plan: SlotPlan) -> DecodedImages:
    """Return an empty cache in memory, which the kernel frees when the last process that has it open ends or is killed.

    Raises:
        OSError: it cannot be made.
    """
    descriptor = unnamed_memory_file("hpc-yolo-images")
    try:
        os.ftruncate(descriptor, plan.total_bytes)
        return DecodedImages(descriptor, plan)
    except BaseException:
        os.close(descriptor)
        raise


def disk_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory for caches on the local disk of this node.

    Args:
        environ: variables of a task.

    Raises:
        DataError: there is none.
    """
    named = (environ.get(name, "") for name in JOB_VARIABLES)
    candidates = [Path(path) for path in (*named, TEMPORARY) if path.startswith("/")]
    for path in candidates:
        if path.is_dir() and is_local(path) and not is_in_memory(path):
            return path
    raise DataError(f"none of {', '.join(f'${name}' for name in JOB_VARIABLES)} and {TEMPORARY} is on a local disk")


def decoded_digest(index: ImageIndex, imgsz: int, *, augment: bool) -> str:
    """Return a digest of all that the decoded images of `index` depend on."""
    content = index.digest or secrets.token_hex()
    return hashlib.sha256(repr((VERSION, cv2.__version__, content, imgsz, augment)).encode()).hexdigest()[:32]


def free_on_disk(directory: Path, digests: Iterable[str]) -> int:
    """Return the bytes that caches may take in `directory`: those that are free, and those that they have already.

    Raises:
        OSError: the file system does not answer.
    """
    found = os.statvfs(directory)
    free_bytes = found.f_bavail * found.f_frsize
    for digest in digests:
        with contextlib.suppress(OSError):
            free_bytes += StagedCopy(private_directory(directory), digest).cache_bytes or 0
    return free_bytes


def disk_cache(directory: Path, digest: str, plan: SlotPlan) -> DecodedImages:
    """Return the cache `digest` on a disk, with what other processes have written since the node's boot.

    It is removed by the next one there when it was not used for three days.

    Raises:
        OSError, DataError: it cannot be made.
    """
    parent = private_directory(directory)
    remove_unused(parent, keep=digest)
    copy = StagedCopy(parent, digest)
    lock = _shared_lock(copy, plan)
    try:
        lock.touch()
        descriptor = os.open(copy.decoded, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        cache = _whole(descriptor, plan, str(copy.decoded))
    except BaseException:
        lock.close()
        raise
    weakref.finalize(cache, lock.close)
    return cache


def _shared_lock(copy: StagedCopy, plan: SlotPlan) -> CopyLock:
    """Return the lock of the cache in `copy`, held shared; wait while another process makes or removes the cache.

    Raises:
        OSError: the cache cannot be made, or the other process does not end.
    """
    last_s = time.monotonic() + LOCK_TIMEOUT_S
    while (lock := _try_lock(copy, plan)) is None:
        if time.monotonic() >= last_s:
            raise BlockingIOError(errno.EAGAIN, "is being made or removed", str(copy.decoded))
        time.sleep(LOCK_PAUSE_S)
    return lock


def _try_lock(copy: StagedCopy, plan: SlotPlan) -> CopyLock | None:
    """Return the lock of the cache in `copy`, held shared, with a file in place; None if another process has it alone.

    Each call opens the lock again: the lock file may have been removed, and a failed change from exclusive to shared
    loses the lock.
    """
    lock = copy.lock()
    try:
        if lock.try_exclusive():  # nobody else uses it
            copy.start()
            _make_file(copy.decoded, plan)
        if lock.try_shared():
            return lock
    except BaseException:
        lock.close()
        raise
    lock.close()
    return None


def _make_file(path: Path, plan: SlotPlan) -> None:
    """Make the file of an empty cache, or keep that of an earlier process if it has the size of `plan`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != plan.total_bytes:
            os.ftruncate(descriptor, 0)  # its flags may be those of images that were cut off
            os.ftruncate(descriptor, plan.total_bytes)
    finally:
        os.close(descriptor)


def file_of(cache: DecodedImages) -> FileOfProcess:
    """Return the file of a cache of this process, for other processes of this node."""
    return FileOfProcess(os.getpid(), cache.descriptor, os.fstat(cache.descriptor).st_ino)


def opened_cache(file: FileOfProcess, plan: SlotPlan) -> DecodedImages:
    """Return the cache that another process of this node has open.

    Raises:
        OSError: the file is not accessible from here.
    """
    path = f"{PROC}/{file.pid}/fd/{file.descriptor}"
    return _whole(os.open(path, os.O_RDWR | os.O_CLOEXEC), plan, path, file.inode)


def _whole(descriptor: int, plan: SlotPlan, path: str, inode: int | None = None) -> DecodedImages:
    """Return the cache in an open file, which must have the size of `plan` and the number `inode`."""
    try:
        found = os.fstat(descriptor)
        if found.st_size != plan.total_bytes or inode not in (None, found.st_ino):
            raise FileNotFoundError(errno.ENOENT, "is another file", path)
        return DecodedImages(descriptor, plan)
    except BaseException:
        os.close(descriptor)
        raise
