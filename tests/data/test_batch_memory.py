"""Batches in memory that workers and rank share: used again when nothing uses it, and never before."""

import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from waiting import PATIENCE_S, wait_until

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.batch_memory import FREE, SLOTS, BatchMemory, batch_memory
from hpc_yolo.data.workers import begin, raise_errors, worker_loader

BYTES = 20_000


class Filled(Dataset):
    """Batches of `sizes`, each filled with its position; None is an error after the memory was taken."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, position):
        size = self.sizes[position]
        memory = batch_memory(size or BYTES).fill_(position)
        error = DataError("broken") if size is None else None
        return error or {"images": memory.view(-1, 10, 2).permute(2, 0, 1), "labels": torch.full((3,), float(position))}


def begun(dataset, workers=1):
    """Return (memory, batches) of workers, which end with the batches."""
    memory = BatchMemory(BYTES, workers)
    return memory, raise_errors(begin(worker_loader(dataset, range(len(dataset)), workers, memory)))


def assert_filled(batch, position):
    assert (batch["images"] == position).all() and (batch["labels"] == position).all()
    assert batch["images"].stride() == (1, 20, 2), "channels last, as the worker made it"


def address(batch):
    return batch["images"].data_ptr()


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_that_are_kept_are_never_overwritten(workers):
    """More than there are slots: the others are copies."""
    _, batches = begun(Filled(*[BYTES] * 30), workers)
    kept = list(batches)
    for position, batch in enumerate(kept):
        assert_filled(batch, position)
    assert len({address(batch) for batch in kept}) == 30


def test_memory_is_used_again_when_a_batch_is_gone():
    memory, batches = begun(Filled(*[BYTES] * 50))
    addresses = set()
    for position, batch in enumerate(batches):
        assert_filled(batch, position)
        addresses.add(address(batch))
    assert len(addresses) <= SLOTS
    del batch
    assert (memory._states == FREE).all()


@pytest.mark.parametrize(
    "part",
    [lambda batch: batch["images"][:1], lambda batch: batch["images"].numpy(), lambda batch: batch["images"].detach()],
    ids=["view", "array", "alias"],
)
def test_memory_is_kept_for_the_last_view_of_it(part):
    memory, batches = begun(Filled(*[BYTES] * 40))
    first = part(next(batches))
    assert all(int(batch["images"][0, 0, 0]) == position for position, batch in enumerate(batches, 1))
    assert (np.asarray(first) == 0).all() and (memory._states != FREE).sum() == 1
    del first
    assert (memory._states == FREE).all()


def test_batch_that_is_too_large_for_a_slot_is_copied():
    memory, batches = begun(Filled(BYTES, 10 * BYTES, BYTES))
    for position, batch in enumerate(batches):
        assert_filled(batch, position)
    del batch
    assert (memory._states == FREE).all()


def test_memory_of_a_batch_that_failed_is_free():
    """More of them than there are slots."""
    memory, batches = begun(Filled(*[None] * 3 * SLOTS, BYTES))
    with pytest.raises(DataError, match="broken"):
        next(batches)
    wait_until(lambda: (memory._states == FREE).all(), "the end of failed batches")


def test_process_that_is_forked_meanwhile_frees_nothing():
    memory, batches = begun(Filled(BYTES))
    batch = next(batches)
    child = os.fork()
    if child == 0:
        del batch
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (memory._states != FREE).sum() == 1
    assert_filled(batch, 0)


def test_memory_returns_to_the_system_with_the_last_batch():
    memory, batches = begun(Filled(*[BYTES] * 8))
    last = list(batches)[-1]
    memory.trim_when_free()
    assert_filled(last, 7)
    written = np.frombuffer(memory._file, dtype=np.uint8)
    del last
    assert not written.any()


def test_nothing_is_left_of_a_loader():
    memory, batches = begun(Filled(*[BYTES] * 3), 2)
    gone = weakref.ref(memory)
    list(batches)
    del memory, batches
    assert gone() is None


PROGRAM = """
import sys
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.data.batch_memory import BatchMemory, batch_memory
from hpc_yolo.data.workers import begin, worker_loader

class Batches:
    def __len__(self): return 6
    def __getitem__(self, position): return batch_memory(4 << 20).fill_(position)

try:
    loader = worker_loader(Batches(), range(6), 2, BatchMemory(4 << 20, 2))
    print([int(batch.sum()) >> 22 for batch in begin(loader)])
except HpcYoloError as error:
    print(type(error).__name__, error.message, error.hint)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount another /dev/shm")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("size=1m", "[0, 1, 2, 3, 4, 5]"),
        ("ro", "TrainingError loader workers cannot start, since their queues have locks in /dev/shm: Read-only file"),
        ("size=4k", "TrainingError loader workers cannot start, since their queues have locks in /dev/shm: No space"),
    ],
)
def test_batches_need_no_room_in_dev_shm(options, expected):
    """Containers often have 64 MB of it; a worker that found none free would hang its rank."""
    script = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec timeout 500 "$@"'
    command = ["unshare", "--mount", "--", "sh", "-ec", script, "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stdout.startswith(expected), done.stdout + done.stderr
