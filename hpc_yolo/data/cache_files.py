"""The files of caches of decoded images: in the memory of a node, without a name, so that none can be left behind."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

from hpc_yolo.data.decoded import DecodedImages, SlotPlan
from hpc_yolo.data.shared_memory import DIRECTORY

PROC = "/proc"


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
    descriptor = _unnamed_file()
    try:
        os.ftruncate(descriptor, plan.total_bytes)
        return DecodedImages(descriptor, plan)
    except BaseException:
        os.close(descriptor)
        raise


def _unnamed_file() -> int:
    """Return a file in memory that has no name; it does not need space in /dev/shm where the system can do without."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("hpc-yolo-images", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(dir=DIRECTORY) as file:
        return os.dup(file.fileno())


def file_of(cache: DecodedImages) -> FileOfProcess:
    """Return the file of a cache of this process, for other processes of this node."""
    return FileOfProcess(os.getpid(), cache.descriptor, os.fstat(cache.descriptor).st_ino)


def opened_cache(file: FileOfProcess, plan: SlotPlan) -> DecodedImages:
    """Return the cache that another process of this node has open.

    Raises:
        OSError: the file is not accessible from here.
    """
    path = f"{PROC}/{file.pid}/fd/{file.descriptor}"
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if (found.st_ino, found.st_size) != (file.inode, plan.total_bytes):
            raise FileNotFoundError(f"{path} is another file")
        return DecodedImages(descriptor, plan)
    except BaseException:
        os.close(descriptor)
        raise
