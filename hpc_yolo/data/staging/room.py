"""Room for a staged copy: free space of a file system and, where that is memory, what the job may use."""

from __future__ import annotations

import os
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import short_bytes
from hpc_yolo.data.memory import available_bytes

MOUNTS = Path("/proc/self/mountinfo")
SPARE = 0.2  # of the files, which stays free
MEMORY_FRACTION = 0.5  # of the job's memory: the training needs the rest
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
# Types of file systems of one machine; any other one may be served by other machines.
LOCAL = IN_MEMORY | {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "overlay", "squashfs"}


def file_system(path: Path) -> str:
    """Return the type of the file system of `path`, such as ext4 or lustre; "" where that is not known."""
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        is_above = point == "/" or real == point or real.startswith(f"{point}/")
        if is_above and len(point) >= len(best):  # of two on one directory the later one is on top
            best, kind = point, after.split(" ")[0]
    return kind


def is_local(path: Path) -> bool:
    """Return True if `path` is on a file system of this machine."""
    return file_system(path) in LOCAL


def is_in_memory(path: Path) -> bool:
    """Return True if files in `path` are in the memory of this machine."""
    return file_system(path) in IN_MEMORY


def require_room(directory: Path, needed_bytes: int, num_files: int) -> None:
    """Check that `directory` has room for files.

    Args:
        directory: an existing one.
        needed_bytes: of the files that are not there yet.
        num_files: their number.

    Raises:
        DataError: there is none; the message has what is free and what is needed.
        OSError: the file system does not answer.
    """
    found = os.statvfs(directory)
    free_bytes, wanted_bytes = found.f_bavail * found.f_frsize, int(needed_bytes * (1 + SPARE))
    needed = f"{short_bytes(wanted_bytes)} are needed ({short_bytes(needed_bytes)} and a fifth)"
    if free_bytes < wanted_bytes:
        raise DataError(f"{directory} has {short_bytes(free_bytes)} free, and {needed}")
    if found.f_files and found.f_favail < num_files * (1 + SPARE):
        raise DataError(f"{directory} has room for {found.f_favail} more files, and {num_files} and a fifth are needed")
    if is_in_memory(directory):
        usable_bytes = available_bytes() * MEMORY_FRACTION
        if usable_bytes < wanted_bytes:
            raise DataError(
                f"{directory} is in memory; half of what this job has left is {short_bytes(usable_bytes)}, and {needed}"
            )
