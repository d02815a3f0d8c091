"""Loader worker processes: their setup, and the transfer of their errors to the task."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from hpc_yolo.core.errors import HpcYoloError, TrainingError
from hpc_yolo.core.heap import return_freed_memory
from hpc_yolo.data.batch import ValidationBatch
from hpc_yolo.data.batch_memory import BatchMemory
from hpc_yolo.data.decode import prepare_decoder
from hpc_yolo.data.undrawn import AnyTrainingBatch

Batch = TypeVar("Batch", AnyTrainingBatch, ValidationBatch)


def worker_loader(batches: Dataset[Any], order: Any, workers: int, memory: BatchMemory) -> DataLoader[Any]:
    """Return torch's loader of whole batches, in `order`, from `workers` processes that live as long as it does.

    Args:
        batches: maps an element of `order` to a batch, or to an error as a value.
        workers: 0 to load in this process.
        memory: in which the workers make their batches.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=functools.partial(_start_worker, memory),
        multiprocessing_context="fork" if workers > 0 else None,
    )


def begin(loader: DataLoader[Any]) -> Iterator[Any]:
    """Let the workers of `loader` begin, and return the batches and errors that they make.

    Raises:
        TrainingError: there is no /dev/shm for the locks of their queues.
    """
    if loader.num_workers:
        return_freed_memory()
    try:
        return iter(loader)
    except OSError as error:
        raise TrainingError(
            f"loader workers cannot start, since their queues have locks in /dev/shm: {error.strerror}",
            hint="train.workers=0, or a container with /dev/shm: apptainer --bind /dev/shm, docker run --shm-size=64m",
        ) from error


def raise_errors(batches: Iterator[Batch | HpcYoloError]) -> Iterator[Batch]:
    """Yield batches and raise the errors among them.

    A worker passes an error as a value, because torch would hide it in a traceback.
    """
    for batch in batches:
        if isinstance(batch, HpcYoloError):
            try:
                raise batch
            finally:
                del batch, batches  # an error that holds its own frame would keep the workers until a late collection
        yield batch


def _start_worker(memory: BatchMemory, worker: int) -> None:
    """Set up a worker process: SIGTERM ends it, other signals of its task are ignored, and it uses one thread."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for ignored in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    prepare_decoder()
    memory.use_in_worker(worker)
