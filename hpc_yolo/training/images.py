"""The images that one rank trains on and evaluates: scanned, kept in memory where they fit, and loaded."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.worker_count import worker_count
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.kernel_drawing import has_kernels
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.scan import scan_split
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, WarningRaised
from hpc_yolo.runs.sweep import label_cache_of
from hpc_yolo.spec.data import WINDOW
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.image_cache import node_caches
from hpc_yolo.training.kept_images import SPLITS, with_lost_images

PROGRESS_S = 5.0


def scan_dataset(
    dataset: Dataset, world: World, run: RunDirectory, emit: Callable[[AnyEvent], None]
) -> tuple[ImageIndex, ImageIndex]:
    """Return the labels of the training and validation images; rank 0 reads them first and writes a cache.

    Where each node has a copy of the dataset, one rank of each does. Images of earlier attempts that cannot be read now
    are among them.

    Raises:
        DataError: the dataset cannot be used, or the copies of two nodes differ.
    """
    is_first = world.process.local_rank == 0 if dataset.is_on_nodes else world.is_main
    if not is_first:
        world.barrier()
    scanned = [
        scan_split(
            dataset,
            split,
            progress_lines(f"reading {split} images", world.is_main),
            spare_cache=label_cache_of(run, split, str(dataset.root)),
        )
        for split in SPLITS
    ]
    if is_first:
        world.barrier()
    if dataset.is_on_nodes:
        require_same_images(dataset, scanned, world)
    train, val = (
        with_lost_images(run, dataset, split, index, world) for split, index in zip(SPLITS, scanned, strict=True)
    )
    for message in (*dataset.messages, *train.messages, *val.messages):
        emit(WarningRaised(message=message))
    return train, val


def augments_on(device: torch.device, train: TrainSpec, hyp: Hyperparameters) -> bool:
    """Return True if training images are augmented on `device`."""
    if not train.augments_on_gpu(hyp, has_gpu=device.type == "cuda"):
        return False
    return train.augment_device == "gpu" or has_kernels(device)


def require_same_images(dataset: Dataset, indexes: Sequence[ImageIndex], world: World) -> None:
    """Check that all ranks have the same images and labels, each from the copy on its node.

    Raises:
        DataError: they differ; the message names two nodes. The same on all ranks.
    """
    rows = world.gather_numbers([number for index in indexes for number in (index.num_images, _digest(index, dataset))])
    other = next((rank for rank, row in enumerate(rows) if row != rows[0]), None)
    if other is None:
        return
    hosts = [world.ranks[rank].host for rank in (0, other)]
    counts = [f"{train:.0f} training and {val:.0f} validation images" for train, _, val, _ in (rows[0], rows[other])]
    raise DataError(
        f"the dataset on {hosts[1]} is not that on {hosts[0]}: {counts[1]}, and {counts[0]} there"
        + ("; names, sizes or labels differ" if counts[0] == counts[1] else ""),
        hint="stage the same files on every node; a copy that was cut off has fewer images",
    )


def _digest(index: ImageIndex, dataset: Dataset) -> int:
    """Return a checksum of the images of `index`, relative to the dataset, and of their sizes and labels."""
    names = "\n".join(path.removeprefix(str(dataset.root)) for path in index.paths)
    checksum = zlib.crc32(index.shapes_hw.tobytes(), zlib.crc32(os.fsencode(names)))
    return zlib.crc32(index.labels.rows.tobytes(), zlib.crc32(index.labels.bounds.tobytes(), checksum))


def build_loaders(
    spec: Spec,
    indexes: tuple[ImageIndex, ImageIndex],
    hyp: Hyperparameters,
    stride: int,
    world: World,
    emit: Callable[[AnyEvent], None],
) -> tuple[TrainingLoader, ValidationLoader]:
    """Return the loaders of this rank's training and validation images."""
    train = spec.train
    options: dict[str, Any] = {
        "rank": world.rank,
        "world_size": world.size,
        "workers": worker_count(train.workers, cpus_per_rank(world), is_on_cpu=world.device.type == "cpu"),
    }
    caches = node_caches(train.cache, indexes, train.imgsz, world, emit)
    training = TrainingLoader(
        indexes[0],
        imgsz=train.imgsz,
        batch=train.batch,
        hyp=hyp,
        seed=train.seed,
        epochs=train.epochs,
        cache=caches[0],
        rect=train.rect,
        by_weight=train.image_weights,
        window_partners=spec.data.mosaic_partners == WINDOW,
        draws=not augments_on(world.device, train, hyp),
        stride=stride,
        **options,
    )
    validation = ValidationLoader(
        indexes[1],
        imgsz=train.imgsz,
        batch=2 * train.batch,
        stride=stride,
        cache=caches[1],
        replaces_unreadable=True,
        **options,
    )
    return training, validation


def progress_lines(what: str, is_main: bool) -> Callable[[int, int], None]:
    """Return a callback (done, total) for long work: rank 0 prints a line into its log every few seconds."""
    printed_s = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal printed_s
        if is_main and time.monotonic() - printed_s >= PROGRESS_S:
            printed_s = time.monotonic()
            print(f"{what}: {done}/{total}", flush=True)

    return on_progress


def cpus_per_rank(world: World) -> int:
    """Return the number of cores that each rank of this node may use."""
    return max(len(os.sched_getaffinity(0)) // world.process.local_world_size, 1)
