"""Loaders of the batches of one rank; worker processes read, augment and stack the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.data.batch import TrainingBatch, ValidationBatch, empty_images, rows_of, stack_targets
from hpc_yolo.data.decoded import BYTES_PER_PIXEL, CachedImages, DecodedImages
from hpc_yolo.data.images import Pixels
from hpc_yolo.data.labels import ImageIndex, Labels
from hpc_yolo.data.sampler import (
    WINDOW,
    Indices,
    epoch_order,
    global_batch,
    image_weights,
    rank_shard,
    rect_order,
    rect_plan,
    steps_per_epoch,
    windows,
)
from hpc_yolo.data.samples import TrainingSamples, ValidationSamples
from hpc_yolo.data.shared_memory import demand_of, into_shared_memory
from hpc_yolo.data.source import ImageFiles, ImageSource, RecentImages
from hpc_yolo.data.workers import raise_errors, worker_loader
from hpc_yolo.spec.recipe import Hyperparameters

VALIDATION_PAD = 0.5


class TrainingLoader:
    """Loader of one rank's training batches, from any step of any epoch. Its workers live as long as the loader.

    Args:
        batch: images of a step over all ranks.
        cache: keeps decoded images after their first use.
        rect: batches of images of similar shapes, in a fixed order, padded to the smallest multiples of `stride`
            that hold them; no mosaics.
        by_weight: draw images with rare classes, or classes with a low mAP, more often.
        window_partners: draw the partners of a mosaic from the images before it in the order of the epoch, instead of
            from all, so that a process decodes an image once while it is in use.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        imgsz: int,
        batch: int,
        hyp: Hyperparameters,
        seed: int,
        rank: int,
        world_size: int,
        workers: int,
        cache: DecodedImages | None = None,
        rect: bool = False,
        by_weight: bool = False,
        window_partners: bool = False,
        stride: int = 32,
    ) -> None:
        self.index = index
        self.num_images = index.num_images
        self._steps_per_epoch = steps_per_epoch(index.num_images, batch)
        if rect:
            hyp = msgspec.structs.replace(hyp, mosaic=0.0)
        source = _source(index, imgsz, cache, augment=True)
        if window_partners and cache is None:
            source = RecentImages(source, 2 * WINDOW)
        self._has_windows = window_partners and not rect
        self._samples = TrainingSamples(index, source, imgsz=imgsz, hyp=hyp, seed=seed)
        self._plan = rect_plan(index.shapes_hw, batch=batch, imgsz=imgsz, stride=stride, pad=0.0) if rect else None
        self._labels = index.labels if by_weight else None
        self._imgsz, self._seed, self._batch, self._rank, self._world_size = imgsz, seed, batch, rank, world_size
        self._shards = _Shards()
        self._loader = worker_loader(_TrainingBatches(self._samples), self._shards, workers)
        shapes = self._plan[1] if self._plan else [(imgsz, imgsz)]
        largest = max(height * width for height, width in shapes) * BYTES_PER_PIXEL
        shard_size = -(-batch // world_size)
        self.shared_demand = demand_of(shard_size * largest, self._steps_per_epoch, workers)

    def __len__(self) -> int:
        return self._steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0, class_maps: Sequence[float] = ()) -> Iterator[TrainingBatch]:
        """Yield the batches of `epoch` from `first_step` on.

        Args:
            class_maps: mAP of each class before this epoch, for draws by weight; by default 0 for all.

        Raises:
            DataError: an image cannot be read any more.
            LostProcessError: a worker has no shared memory for a batch.
        """
        order = self._epoch_order(epoch, class_maps)
        # An image that is drawn twice in an epoch gets two different augmentations.
        keys = order if self._labels is None else np.arange(len(order))
        self._shards.shards = [
            _Shard(epoch, self._own(order, step), self._own(keys, step), self._shape(step), self._partners(order, step))
            for step in range(first_step, self._steps_per_epoch)
        ]
        return raise_errors(iter(self._loader))

    def image_paths(self, epoch: int, step: int, rank: int, class_maps: Sequence[float] = ()) -> list[Path]:
        """Return the files of one rank's shard of a global batch; a mosaic adds further ones."""
        images = global_batch(self._epoch_order(epoch, class_maps), self._batch, step)
        return [Path(self.index.paths[image]) for image in rank_shard(images, rank, self._world_size).tolist()]

    def samples(self, num_samples: int) -> list[tuple[Pixels, Labels]]:
        """Return the first samples of the first epoch, made in this process; see `TrainingSamples.sample`.

        Raises:
            DataError: an image cannot be read any more.
        """
        order = self._epoch_order(0, ())
        partners = windows(order, np.arange(num_samples)) if self._has_windows else [None] * num_samples
        return [
            self._samples.sample(0, image, self._shape(0), partners=window)
            for image, window in zip(order[:num_samples].tolist(), partners, strict=False)
        ]

    def _epoch_order(self, epoch: int, class_maps: Sequence[float]) -> Indices:
        if self._plan is not None:
            return rect_order(self._plan[0], self._batch)
        weights = None
        if self._labels is not None:
            num_classes = len(class_maps) or int(self._labels.rows[:, 0].max(initial=0)) + 1
            weights = image_weights(self._labels, np.array(class_maps or [0.0] * num_classes))
        return epoch_order(self.num_images, self._seed, epoch, weights)

    def _shape(self, step: int) -> tuple[int, int]:
        return self._plan[1][step] if self._plan else (self._imgsz, self._imgsz)

    def _partners(self, order: Indices, step: int) -> Indices | None:
        return windows(order, self._own(np.arange(len(order)), step)) if self._has_windows else None

    def _own(self, order: Indices, step: int) -> Indices:
        return rank_shard(global_batch(order, self._batch, step), self._rank, self._world_size)


class ValidationLoader:
    """Loader of this rank's shard of the validation images, each image on one rank, in groups of one shape.

    The groups are planned over all ranks, so their shapes do not depend on the number of ranks.

    Args:
        batch: images of a group over all ranks.
        square: pad every image to a square of `imgsz`.
        cache: keeps decoded images after their first use.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        imgsz: int,
        batch: int,
        stride: int,
        rank: int,
        world_size: int,
        workers: int,
        square: bool = False,
        cache: DecodedImages | None = None,
    ) -> None:
        self.index = index
        order, shapes = rect_plan(index.shapes_hw, batch=batch, imgsz=imgsz, stride=stride, pad=VALIDATION_PAD)
        if square:
            shapes = [(imgsz, imgsz)] * len(shapes)
        self._is_mine: list[bool] = []
        mine = []
        for start, shape in zip(range(0, len(order), batch), shapes, strict=True):
            # The image at position p of the order is on rank p % world size, so that shards differ by one at most.
            images = order[start : start + batch][(rank - start) % world_size :: world_size]
            self._is_mine.append(len(images) > 0)
            if len(images):
                mine.append((images, shape))
        samples = ValidationSamples(index, _source(index, imgsz, cache, augment=False))
        self._loader = worker_loader(_ValidationBatches(samples, mine), list(range(len(mine))), workers)
        sizes = (len(images) * height * width * BYTES_PER_PIXEL for images, (height, width) in mine)
        self.shared_demand = demand_of(max(sizes, default=0), len(mine), workers)

    def slots(self) -> Iterator[ValidationBatch | None]:
        """Yield for each group this rank's batch, or None if only other ranks have one; equally many on every rank."""
        batches = iter(self)
        for is_mine in self._is_mine:
            yield next(batches) if is_mine else None

    def __iter__(self) -> Iterator[ValidationBatch]:
        return raise_errors(iter(self._loader))


def _source(index: ImageIndex, imgsz: int, cache: DecodedImages | None, *, augment: bool) -> ImageSource:
    files = ImageFiles(index, imgsz, augment=augment)
    return files if cache is None else CachedImages(files, cache)


class _Shard(NamedTuple):
    """This rank's shard of a global batch: its images, their keys (see `sample`), their shape and possible partners."""

    epoch: int
    images: Indices
    keys: Indices
    shape: tuple[int, int]
    partners: Indices | None


class _Shards(Sampler[_Shard]):
    """The remaining shards, which are replaced for every epoch."""

    def __init__(self) -> None:
        self.shards: list[_Shard] = []

    def __iter__(self) -> Iterator[_Shard]:
        return iter(self.shards)

    def __len__(self) -> int:
        return len(self.shards)


class _TrainingBatches(Dataset[TrainingBatch | HpcYoloError]):
    """Batches by their `_Shard`."""

    def __init__(self, samples: TrainingSamples) -> None:
        self._samples = samples

    def __getitem__(self, shard: _Shard) -> TrainingBatch | HpcYoloError:
        try:
            batch = self._batch_of(shard)
            into_shared_memory([batch.images, batch.targets])
        except HpcYoloError as error:
            return error
        return batch

    def _batch_of(self, shard: _Shard) -> TrainingBatch:
        images = empty_images(len(shard.images), shard.shape)
        partners = [None] * len(images) if shard.partners is None else shard.partners
        labels = [
            self._samples.sample(shard.epoch, int(image), shard.shape, int(key), out, window)[1]
            for image, key, out, window in zip(shard.images, shard.keys, rows_of(images), partners, strict=True)
        ]
        return TrainingBatch(images, stack_targets(labels))


class _ValidationBatches(Dataset[ValidationBatch | HpcYoloError]):
    """Batches by their position in `groups` of (images, shape)."""

    def __init__(self, samples: ValidationSamples, groups: list[tuple[Indices, tuple[int, int]]]) -> None:
        self._samples, self._groups = samples, groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, position: int) -> ValidationBatch | HpcYoloError:
        try:
            batch = self._batch_at(position)
            into_shared_memory([batch.images, batch.targets, batch.indices])
        except HpcYoloError as error:
            return error
        return batch

    def _batch_at(self, position: int) -> ValidationBatch:
        group, shape = self._groups[position]
        images = empty_images(len(group), shape)
        samples = [
            self._samples.sample(int(image), shape, out) for image, out in zip(group, rows_of(images), strict=True)
        ]
        _, labels, shapes = zip(*samples, strict=True)
        return ValidationBatch(images, stack_targets(labels), torch.from_numpy(group), list(shapes))
