"""Memory that the C library's allocator holds for a process."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
LARGEST_MMAP_THRESHOLD_BYTES = 32 << 20  # glibc refuses more


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for later allocations of this process and of those that it forks.

    By default it returns the memory of an image or a tensor to the kernel, which has to clear each page of the next
    one. Allocations of more than 32 MiB are returned still. Without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, NEVER)


def return_freed_memory() -> None:
    """Return freed memory to the kernel.

    Before a fork: otherwise the child keeps all of it as it was, once this process writes to it again.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
