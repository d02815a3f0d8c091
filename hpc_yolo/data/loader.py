"""Loaders of the batches of one rank; worker processes read, augment and stack the images."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.utils.data import Dataset

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.data.batch import TrainingBatch, ValidationBatch, empty_images, rows_of, stack_targets
from hpc_yolo.data.batch_memory import BatchMemory
from hpc_yolo.data.decoded import BYTES_PER_PIXEL, CachedImages, DecodedImages
from hpc_yolo.data.images import Pixels
from hpc_yolo.data.labels import ImageIndex, Labels
from hpc_yolo.data.sampler import WINDOW, Indices, global_batch, rank_shard, rect_plan
from hpc_yolo.data.samples import TrainingSamples, ValidationSamples
from hpc_yolo.data.shards import Shard, ShardPlan, ShardQueue
from hpc_yolo.data.source import ImageFiles, ImageSource, RecentImages
from hpc_yolo.data.undrawn import AnyTrainingBatch, Collector, UndrawnBatch, most_bytes
from hpc_yolo.data.workers import begin, raise_errors, worker_loader
from hpc_yolo.spec.recipe import Hyperparameters

VALIDATION_PAD = 0.5


class TrainingLoader:
    """Loader of one rank's training batches, from any step of any epoch. Its workers live as long as the loader.

    Args:
        batch: images of a step over all ranks.
        epochs: number of epochs of the run: nothing is loaded ahead after them, and the last may have no mosaics.
        cache: keeps decoded images after their first use.
        rect: batches of images of similar shapes, in a fixed order, padded to the smallest multiples of `stride`
            that hold them; no mosaics.
        by_weight: draw images with rare classes, or classes with a low mAP, more often.
        window_partners: draw the partners of a mosaic from the images before it in the order of the epoch, instead of
            from all, so that a process decodes an image once while it is in use.
        draws: draw the images; else batches are `UndrawnBatch`, for a device that draws them.

    Attributes:
        draws: as given.
        num_ready: batches that the workers had ready when the last one was asked for.
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
        epochs: int = sys.maxsize,
        cache: DecodedImages | None = None,
        rect: bool = False,
        by_weight: bool = False,
        window_partners: bool = False,
        draws: bool = True,
        stride: int = 32,
    ) -> None:
        self.index = index
        self.num_images, self.draws = index.num_images, draws
        if rect:
            hyp = msgspec.structs.replace(hyp, mosaic=0.0)
        source = _source(index, imgsz, cache, augment=True)
        if window_partners and cache is None:
            source = RecentImages(source, 2 * WINDOW)
        self._samples = TrainingSamples(index, source, imgsz=imgsz, hyp=hyp, seed=seed, epochs=epochs)
        rects = rect_plan(index.shapes_hw, batch=batch, imgsz=imgsz, stride=stride, pad=0.0) if rect else None
        self._plan = ShardPlan(
            index, imgsz, batch, seed, rank, world_size, rects, by_weight, window_partners and not rect
        )
        self._steps_per_epoch = self._plan.steps_per_epoch
        self._epochs = epochs
        # At the end of an epoch, the workers go on with the next one. Not by weight: it needs an evaluation.
        self._loads_ahead = not by_weight
        self.num_ready = 0
        self._queue = ShardQueue(workers)
        collector = None if draws else Collector(hyp)
        shapes = rects[1] if rects else [(imgsz, imgsz)]
        image_bytes = max(_drawn_bytes(shape) if draws else most_bytes(shape, imgsz, hyp) for shape in shapes)
        memory = BatchMemory(-(-batch // world_size) * image_bytes, workers)
        batches = _TrainingBatches(self._samples, self._queue, collector)
        self._loader = worker_loader(batches, self._queue, workers, memory)
        self._batches: Iterator[AnyTrainingBatch] = iter(())
        self._position: tuple[int, int] | None = None  # epoch and step of the next of `_batches`

    def __len__(self) -> int:
        return self._steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0, class_maps: Sequence[float] = ()) -> Iterator[AnyTrainingBatch]:
        """Return the batches of `epoch` from `first_step` on; the workers begin with them, if they have not already.

        Args:
            class_maps: mAP of each class before this epoch, for draws by weight; by default 0 for all.

        Raises:
            DataError: an image cannot be read any more.
            TrainingError: the workers cannot start.
        """
        if not self._loads_ahead or epoch >= self._epochs or self._position != (epoch, first_step):
            epochs = range(epoch, max(self._epochs, epoch + 1) if self._loads_ahead else epoch + 1)
            with self._queue.replaced(self._plan.shards(epochs, first_step, class_maps)):
                self._batches = raise_errors(begin(self._loader))
        return self._epoch_batches(epoch, first_step)

    def _epoch_batches(self, epoch: int, first_step: int) -> Iterator[AnyTrainingBatch]:
        for step in range(first_step, self._steps_per_epoch):
            self._position = None  # unknown after an error
            self.num_ready = self._queue.num_ready
            batch = next(self._batches)
            self._queue.num_taken += 1
            self._position = (epoch, step + 1) if step + 1 < self._steps_per_epoch else (epoch + 1, 0)
            yield batch

    def image_paths(self, epoch: int, step: int, rank: int, class_maps: Sequence[float] = ()) -> list[Path]:
        """Return the files of one rank's shard of a global batch; a mosaic adds further ones."""
        images = global_batch(self._plan.order(epoch, class_maps), self._plan.batch, step)
        return [Path(self.index.paths[image]) for image in rank_shard(images, rank, self._plan.world_size).tolist()]

    def samples(self, num_samples: int) -> list[tuple[Pixels, Labels]]:
        """Return the first samples of the first epoch, made in this process; see `TrainingSamples.sample`.

        Raises:
            DataError: an image cannot be read any more.
        """
        return [
            self._samples.sample(0, image, self._plan.shape(0), partners=window)
            for image, window in self._plan.first_images(num_samples)
        ]


class ValidationLoader:
    """Loader of this rank's shard of the validation images, each image on one rank, in groups of one shape.

    The groups are planned over all ranks, so their shapes do not depend on the number of ranks.

    Args:
        batch: images of a group over all ranks.
        square: pad every image to a square of `imgsz`.
        cache: keeps decoded images after their first use.
        replaces_unreadable: use the next image for one that cannot be read any more; its detections count twice.
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
        replaces_unreadable: bool = False,
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
        source = _source(index, imgsz, cache, augment=False)
        samples = ValidationSamples(index, source, replaces=replaces_unreadable)
        sizes = (len(images) * _drawn_bytes(shape) for images, shape in mine)
        self._memory = BatchMemory(max(sizes, default=0), workers)
        self._loader = worker_loader(_ValidationBatches(samples, mine), list(range(len(mine))), workers, self._memory)
        self._has_workers = workers > 0
        self._begun: Iterator[Any] | None = None

    def slots(self) -> Iterator[ValidationBatch | None]:
        """Yield for each group this rank's batch, or None if only other ranks have one; equally many on every rank."""
        batches = iter(self)
        for is_mine in self._is_mine:
            yield next(batches) if is_mine else None

    def begin(self) -> None:
        """Let the workers begin with the first batches, so that they are ready when they are asked for."""
        if self._has_workers and self._begun is None:
            self._begun = self._batches()

    def __iter__(self) -> Iterator[ValidationBatch]:
        begun, self._begun = self._begun, None
        yield from raise_errors(self._batches() if begun is None else begun)
        self._memory.trim_when_free()

    def _batches(self) -> Iterator[Any]:
        self._memory.keep()
        return begin(self._loader)


def _drawn_bytes(shape: tuple[int, int]) -> int:
    """Return the bytes of an image of `shape`, height and width, in a batch."""
    return shape[0] * shape[1] * BYTES_PER_PIXEL


def _source(index: ImageIndex, imgsz: int, cache: DecodedImages | None, *, augment: bool) -> ImageSource:
    files = ImageFiles(index, imgsz, augment=augment)
    return files if cache is None else CachedImages(files, cache)


class _TrainingBatches(Dataset[AnyTrainingBatch | HpcYoloError]):
    """Batches by their `Shard`: drawn, or collected by `collector`."""

    def __init__(self, samples: TrainingSamples, queue: ShardQueue, collector: Collector | None) -> None:
        self._samples, self._queue, self._collector = samples, queue, collector

    def __getitem__(self, shard: Shard) -> AnyTrainingBatch | HpcYoloError:
        try:
            return self._drawn(shard) if self._collector is None else self._undrawn(shard, self._collector)
        except HpcYoloError as error:
            return error
        finally:
            self._queue.count_made()

    def _drawn(self, shard: Shard) -> TrainingBatch:
        images = empty_images(len(shard.images), shard.shape)
        labels = [
            self._samples.sample(shard.epoch, image, shard.shape, key, out, window)[1]
            for (image, key, window), out in zip(shard.rows(), rows_of(images), strict=True)
        ]
        return TrainingBatch(images, stack_targets(labels), self._samples.images.take_found())

    def _undrawn(self, shard: Shard, collector: Collector) -> UndrawnBatch:
        labels = [
            self._samples.make(collector.add, shard.epoch, image, shard.shape, key, window)[1]
            for image, key, window in shard.rows()
        ]
        content, forms = collector.take()
        return UndrawnBatch(shard.shape, content, forms, stack_targets(labels), self._samples.images.take_found())


class _ValidationBatches(Dataset[ValidationBatch | HpcYoloError]):
    """Batches by their position in `groups` of (images, shape)."""

    def __init__(self, samples: ValidationSamples, groups: list[tuple[Indices, tuple[int, int]]]) -> None:
        self._samples, self._groups = samples, groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, position: int) -> ValidationBatch | HpcYoloError:
        try:
            return self._batch_at(position)
        except HpcYoloError as error:
            return error

    def _batch_at(self, position: int) -> ValidationBatch:
        group, shape = self._groups[position]
        images = empty_images(len(group), shape)
        samples = [
            self._samples.sample(int(image), shape, out) for image, out in zip(group, rows_of(images), strict=True)
        ]
        _, labels, shapes = zip(*samples, strict=True)
        indices, replaced = torch.from_numpy(group), self._samples.images.take_found()
        return ValidationBatch(images, stack_targets(labels), indices, list(shapes), replaced)
