"""The shards of one rank in the order of training, and the queue from which loader workers take them."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler, get_worker_info

from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.sampler import (
    Indices,
    epoch_order,
    global_batch,
    image_weights,
    rank_shard,
    rect_order,
    steps_per_epoch,
    windows,
)


class Shard(NamedTuple):
    """This rank's shard of a global batch: its images, their keys (see `sample`), their shape and possible partners."""

    epoch: int
    images: Indices
    keys: Indices
    shape: tuple[int, int]
    partners: Indices | None

    def rows(self) -> Iterator[tuple[int, int, Indices | None]]:
        """Yield (image, key, possible partners) of each sample."""
        partners = [None] * len(self.images) if self.partners is None else self.partners
        return zip(self.images.tolist(), self.keys.tolist(), partners, strict=True)


@dataclass(frozen=True)
class ShardPlan:
    """The shards of one rank, from any step of any epoch.

    Attributes:
        batch: images of a step over all ranks.
        rects: (images by shape, height and width of each batch) for rectangles.
        by_weight: draw images with rare classes, or classes with a low mAP, more often.
        has_windows: draw the partners of a mosaic from the images before it in the order of the epoch.
    """

    index: ImageIndex
    imgsz: int
    batch: int
    seed: int
    rank: int
    world_size: int
    rects: tuple[Indices, list[tuple[int, int]]] | None = None
    by_weight: bool = False
    has_windows: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Number of global batches in an epoch."""
        return steps_per_epoch(self.index.num_images, self.batch)

    def order(self, epoch: int, class_maps: Sequence[float]) -> Indices:
        """Return the images of `epoch` in their order; `class_maps` is the mAP of each class, by default 0."""
        if self.rects is not None:
            return rect_order(self.rects[0], self.batch)
        weights = None
        if self.by_weight:
            labels = self.index.labels
            num_classes = len(class_maps) or int(labels.rows[:, 0].max(initial=0)) + 1
            weights = image_weights(labels, np.array(class_maps or [0.0] * num_classes))
        return epoch_order(self.index.num_images, self.seed, epoch, weights)

    def shards(self, epochs: range, first_step: int, class_maps: Sequence[float]) -> Iterator[Shard]:
        """Yield the shards of `epochs`, of the first from `first_step` on, each when it is asked for."""
        for epoch in epochs:
            order = self.order(epoch, class_maps)
            # An image that is drawn twice in an epoch gets two different augmentations.
            keys = np.arange(len(order)) if self.by_weight else order
            for step in range(first_step, self.steps_per_epoch):
                images, own_keys = self._own(order, step), self._own(keys, step)
                yield Shard(epoch, images, own_keys, self.shape(step), self._partners(order, step))
            first_step = 0

    def first_images(self, num_images: int) -> list[tuple[int, Indices | None]]:
        """Return the first images of the first epoch, each with its possible partners."""
        order = self.order(0, ())
        found = windows(order, np.arange(num_images)) if self.has_windows else [None] * num_images
        return list(zip(order[:num_images].tolist(), found, strict=False))

    def shape(self, step: int) -> tuple[int, int]:
        """Return height and width of the images of a step."""
        return self.rects[1][step] if self.rects else (self.imgsz, self.imgsz)

    def _partners(self, order: Indices, step: int) -> Indices | None:
        return windows(order, self._own(np.arange(len(order)), step)) if self.has_windows else None

    def _own(self, order: Indices, step: int) -> Indices:
        return rank_shard(global_batch(order, self.batch, step), self.rank, self.world_size)


class ShardQueue(Sampler[Shard]):
    """Shards in the order in which they are needed, made when a worker is free, over the ends of epochs.

    Args:
        workers: 0 to load in this process, which has no batch ready.

    Attributes:
        num_taken: batches that the task has taken or dropped.
    """

    def __init__(self, workers: int) -> None:
        self._shards: Iterator[Shard] = iter(())
        self._num_sent = 0
        self.num_taken = 0
        # Written by one worker each, so without a lock, which a killed worker would hold for ever.
        self._made = np.frombuffer(mmap.mmap(-1, max(workers, 1) * np.int64().itemsize), dtype=np.int64)

    def __iter__(self) -> Iterator[Shard]:
        for shard in self._shards:
            self._num_sent += 1
            yield shard

    @contextlib.contextmanager
    def replaced(self, shards: Iterator[Shard]) -> Iterator[None]:
        """Continue with other `shards`; within the block, torch makes its iterator anew and drops what was made."""
        num_dropped = self._num_sent - self.num_taken
        self._shards = shards
        yield
        self.num_taken += num_dropped

    def count_made(self) -> None:
        """Count a batch that this worker has made."""
        worker = get_worker_info()
        if worker is not None:
            self._made[worker.id] += 1

    @property
    def num_ready(self) -> int:
        """Number of batches that are made and not taken."""
        return max(int(self._made.sum()) - self.num_taken, 0)
