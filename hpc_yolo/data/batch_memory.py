"""Memory in which loader workers make batches for their rank: slots of a file without a name, used again and again.

A slot is free again when the last tensor or array of the rank that uses it is gone. New memory for every batch would
take as long as decoding a small image: the kernel clears each page, and maps it in both processes. The file is not in
/dev/shm, of which containers often have 64 MB.
"""

from __future__ import annotations

import itertools
import mmap
import os
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hpc_yolo.core.files import unnamed_memory_file

PREFETCH = 2  # batches that each worker of torch's loader makes ahead
IN_USE = 2  # batches that a rank has: the one it computes on, and the next
SLOTS = PREFETCH + IN_USE  # of each worker; a batch for which none is free is copied through a pipe
PAGE_BYTES = mmap.PAGESIZE
FREE, TAKEN = 0, 1
Bytes = npt.NDArray[np.uint8]

_numbers = itertools.count()
_memories: weakref.WeakValueDictionary[int, BatchMemory] = weakref.WeakValueDictionary()
_of_worker: BatchMemory | None = None


class BatchMemory:
    """The slots of the workers of one loader; made by the rank before it forks them.

    Args:
        batch_bytes: of a slot.
        workers: number of them.
    """

    def __init__(self, batch_bytes: int, workers: int) -> None:
        self._slot_bytes = _whole_pages(batch_bytes)
        num_slots = workers * SLOTS
        self._first_byte = _whole_pages(num_slots)
        self._file = _mapped(max(self._first_byte + num_slots * self._slot_bytes, PAGE_BYTES))
        self._states = np.frombuffer(self._file, dtype=np.uint8, count=num_slots)
        self._address = _address(self._states)
        self._slots = range(0)  # of this process, if it is a worker
        self._leases: dict[int, _Lease] = {}
        self._is_trimmed = False
        self._number = next(_numbers)
        _memories[self._number] = self

    def use_in_worker(self, worker: int) -> None:
        """Let `batch_memory` of this process, a worker, return slots, and send tensors without copying them."""
        global _of_worker
        _of_worker = self
        self._slots = range(worker * SLOTS, (worker + 1) * SLOTS)
        ForkingPickler.register(torch.Tensor, self._sent)

    def take(self, num_bytes: int) -> Bytes | None:
        """Return `num_bytes` of a free slot of this worker; None if there is none, or they are too many."""
        slot = next((slot for slot in self._slots if self._states[slot] == FREE), None)
        if slot is None or num_bytes > self._slot_bytes:
            return None
        self._states[slot] = TAKEN
        self._leases[slot] = lease = _Lease(self._states, slot)
        found = self._array((num_bytes,), (1,), np.dtype(np.uint8), self._first_byte + slot * self._slot_bytes)
        weakref.finalize(found, lease.end_unless_sent).atexit = False
        return found

    def arrived(
        self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
    ) -> torch.Tensor:
        """Return a tensor that a worker has sent; its slot is free when nothing uses its memory any more."""
        array = self._array(shape, strides, dtype, offset)
        weakref.finalize(array, self._set_free, self._slot_at(offset), os.getpid()).atexit = False
        return torch.from_numpy(array)

    def trim_when_free(self) -> None:
        """Return the memory to the system as soon as no slot is in use. The workers must be idle until `keep`."""
        self._is_trimmed = True
        self._trim()

    def keep(self) -> None:
        """Keep the memory of slots that are free; call it before the workers begin again."""
        self._is_trimmed = False

    def _sent(self, tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
        """Return how the rank makes `tensor`: from its slot, or from a copy."""
        array = tensor.detach().numpy()
        offset = _address(array) - self._address
        if not self._first_byte <= offset < len(self._file):
            order = np.argsort([-stride for stride in array.strides], kind="stable")
            return _copied, (np.ascontiguousarray(array.transpose(order)), np.argsort(order))
        self._leases[self._slot_at(offset)].is_sent = True
        return _arrived, (self._number, offset, array.shape, array.strides, array.dtype)

    def _array(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], offset: int
    ) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=self._file, offset=offset, strides=strides)
        return array

    def _slot_at(self, offset: int) -> int:
        return (offset - self._first_byte) // self._slot_bytes

    def _set_free(self, slot: int, rank: int) -> None:
        if os.getpid() == rank:  # not in a process that the rank has forked while it used the slot
            self._states[slot] = FREE
            self._trim()

    def _trim(self) -> None:
        if self._is_trimmed and self._slot_bytes and not self._states.any() and hasattr(mmap, "MADV_REMOVE"):
            self._file.madvise(mmap.MADV_REMOVE, self._first_byte, len(self._file) - self._first_byte)


class _Lease:
    """A slot that a worker has taken; it is the worker's to free until it is sent."""

    def __init__(self, states: Bytes, slot: int) -> None:
        self._states, self._slot, self.is_sent = states, slot, False

    def end_unless_sent(self) -> None:
        """Free the slot, of a batch that was not finished."""
        if not self.is_sent:
            self._states[self._slot] = FREE


def batch_memory(num_bytes: int) -> torch.Tensor:
    """Return uint8 (num_bytes,) to be filled; in a loader worker in a slot, if one is free."""
    array = None if _of_worker is None else _of_worker.take(num_bytes)
    return torch.empty(num_bytes, dtype=torch.uint8) if array is None else torch.from_numpy(array)


def _whole_pages(num_bytes: int) -> int:
    return -(-num_bytes // PAGE_BYTES) * PAGE_BYTES


def _mapped(num_bytes: int) -> mmap.mmap:
    """Return a file in memory of `num_bytes`, of which the kernel makes pages when they are written."""
    descriptor = unnamed_memory_file("hpc-yolo-batches")
    try:
        os.ftruncate(descriptor, num_bytes)
        return mmap.mmap(descriptor, num_bytes)
    finally:
        os.close(descriptor)


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _copied(array: npt.NDArray[Any], order: npt.NDArray[np.int64]) -> torch.Tensor:
    """Return a tensor of `array` whose dimensions have `order`, that of the original in memory."""
    return torch.from_numpy(array).permute(*order.tolist())


def _arrived(number: int, *described: Any) -> torch.Tensor:
    return _memories[number].arrived(*described)
