"""A cache of decoded images in one file that all loader workers of a node map: each image is decoded once per node.

The file has a flag for each image, then a slot for its pixels. The process that decodes an image first writes its slot,
then its flag; nothing is locked. Two processes that decode the same image write the same bytes.

A reader never sees half of an image, nor one whose writer was killed: it looks at pixels only after it has read their
flag, and the flag is written after the last of them. Flags are read and pixels and flags written by system calls, in
which the kernel counts the references to a page by atomic operations that order all memory accesses before and after
them on every processor, so that the flag is visible no earlier than the pixels. What a system call has written stays
written when its process is killed; a node that goes down loses a file in memory, and `cache_files` ignores files on
disk of an earlier boot.
"""

from __future__ import annotations

import mmap
import os
import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpc_yolo.data.images import Pixels
from hpc_yolo.data.source import ImageSource

BYTES_PER_PIXEL = 3
PAGE_BYTES = 4096
ALIGNED_BYTES = 64  # a line of the processor's cache
IS_WRITTEN = b"\1"


@dataclass(frozen=True)
class SlotPlan:
    """The slots of the first images of a split, as many as have room.

    Attributes:
        shapes_hw: (N, 2) of all images of the split, as they are after resizing.
        starts: (num_slots + 1,) where each slot begins in the file, and where the last ends.
    """

    shapes_hw: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @property
    def num_slots(self) -> int:
        """Number of images that have a slot."""
        return len(self.starts) - 1

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return int(self.starts[-1])


def plan_slots(shapes_hw: npt.NDArray[np.int32], imgsz: int, limit_bytes: int | None = None) -> SlotPlan:
    """Return the slots of images whose longer side becomes `imgsz`, in a file of at most `limit_bytes`."""
    sides = shapes_hw.astype(np.float64)
    resized = np.maximum((sides * (imgsz / sides.max(axis=1, keepdims=True))).astype(np.int64), 1)
    sizes = -(-resized.prod(axis=1) * BYTES_PER_PIXEL // ALIGNED_BYTES) * ALIGNED_BYTES
    first_byte = -(-len(resized) // PAGE_BYTES) * PAGE_BYTES
    starts = first_byte + np.concatenate([[0], sizes.cumsum()])
    num_slots = len(resized)
    if limit_bytes is not None:
        num_slots = int(np.searchsorted(starts, limit_bytes, side="right")) - 1
    return SlotPlan(resized, starts[: max(num_slots, 0) + 1])


class DecodedImages:
    """Decoded images in the slots of an open file; forked processes share the object, others open the same file.

    Args:
        descriptor: of the file, which has at least the size of the plan and is closed with this object.
    """

    def __init__(self, descriptor: int, plan: SlotPlan) -> None:
        self.descriptor, self.plan = descriptor, plan
        self._mapped = np.frombuffer(mmap.mmap(descriptor, plan.total_bytes, prot=mmap.PROT_READ), dtype=np.uint8)
        self._is_writable = True
        weakref.finalize(self, os.close, descriptor)

    def get(self, image: int) -> Pixels | None:
        """Return the pixels of an image as a read-only view of the file; None if they are not there."""
        if image >= self.plan.num_slots or os.pread(self.descriptor, 1, image) != IS_WRITTEN:
            return None
        height, width = self.plan.shapes_hw[image]
        start = self.plan.starts[image]
        return self._mapped[start : start + height * width * BYTES_PER_PIXEL].reshape(height, width, BYTES_PER_PIXEL)

    def put(self, image: int, pixels: Pixels) -> None:
        """Write the pixels of an image, unless it has no slot, or a file that has changed since the scan."""
        if image >= self.plan.num_slots or not self._is_writable:
            return
        if pixels.shape != (*self.plan.shapes_hw[image], BYTES_PER_PIXEL):
            return
        try:
            self._write(np.ascontiguousarray(pixels).reshape(-1).data, int(self.plan.starts[image]))
            self._write(memoryview(IS_WRITTEN), image)
        except OSError:  # the disk is full or broken: the images are read from their files
            self._is_writable = False

    @property
    def num_written(self) -> int:
        """Number of images that are there."""
        return os.pread(self.descriptor, self.plan.num_slots, 0).count(IS_WRITTEN)

    def _write(self, content: memoryview, offset: int) -> None:
        while content:
            num_bytes = os.pwrite(self.descriptor, content, offset)
            content, offset = content[num_bytes:], offset + num_bytes


class CachedImages:
    """An image source that keeps what it reads in `decoded`."""

    def __init__(self, source: ImageSource, decoded: DecodedImages) -> None:
        self._source, self._decoded = source, decoded

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image; see `ImageSource.read`."""
        pixels = self._decoded.get(index)
        if pixels is None:
            pixels = self._source.read(index)
            self._decoded.put(index, pixels)
        return pixels
