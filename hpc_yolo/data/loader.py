"""Batches of this rank: pictures read, changed and stacked in worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hpc_yolo.batches import PictureShape, TrainingBatch, ValidationBatch
from hpc_yolo.data import augment
from hpc_yolo.data.augment import Rows
from hpc_yolo.data.images import Pixels, letterbox, read_image, resize_to, to_chw_rgb
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.sampler import (
    SAMPLE_STREAM,
    Indices,
    epoch_order,
    generator,
    global_batch,
    rank_share,
    rect_plan,
    steps_per_epoch,
)
from hpc_yolo.errors import DataError
from hpc_yolo.spec.schema import Hyperparameters

Batch = TypeVar("Batch", TrainingBatch, ValidationBatch)

MIXED_PARTNER = 2**39  # sample numbers from here on belong to the second mosaic of a blended pair
CACHE_THREADS = 8
CACHE_MEMORY_SHARE = 0.8
VALIDATION_PAD = 0.5


class TrainingLoader:
    """The training batches of one rank, epoch after epoch, from any step on. Workers live as long as it does."""

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
        cache: str = "none",
    ) -> None:
        self.num_images = index.num_images
        self._steps_per_epoch = steps_per_epoch(index.num_images, batch)
        pictures = TrainingPictures(index, imgsz=imgsz, hyp=hyp, seed=seed, in_memory=cache == "ram")
        batches = _TrainingBatches(pictures, batch=batch, rank=rank, world_size=world_size)
        self._positions = _Positions()
        self._loader = _loader(batches, self._positions, workers)

    def __len__(self) -> int:
        return self._steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[TrainingBatch]:
        """The batches of `epoch` from `first_step` on."""
        self._positions.positions = [(epoch, step) for step in range(first_step, self._steps_per_epoch)]
        return _raising(iter(self._loader))


class ValidationLoader:
    """This rank's share of the validation pictures, each picture on one rank, in groups of one shape.

    The groups are planned over all ranks, so their shapes do not depend on how many there are.
    """

    def __init__(
        self, index: ImageIndex, *, imgsz: int, batch: int, stride: int, rank: int, world_size: int, workers: int
    ) -> None:
        order, shapes = rect_plan(index.shapes_hw, batch=batch, imgsz=imgsz, stride=stride, pad=VALIDATION_PAD)
        mine = []
        for start, shape in zip(range(0, len(order), batch), shapes, strict=True):
            # Picture number p of the whole order is rank p % world size's, so that shares differ by one at the most.
            images = order[start : start + batch][(rank - start) % world_size :: world_size]
            if len(images):
                mine.append((images, shape))
        batches = _ValidationBatches(index, imgsz, mine)
        self._loader = _loader(batches, list(range(len(batches))), workers)

    def __iter__(self) -> Iterator[ValidationBatch]:
        return _raising(iter(self._loader))


class TrainingPictures:
    """Training pictures after all changes, as a function of (epoch, index) alone."""

    def __init__(
        self, index: ImageIndex, *, imgsz: int, hyp: Hyperparameters, seed: int, in_memory: bool = False
    ) -> None:
        self._index, self._imgsz, self._hyp, self._seed = index, imgsz, hyp, seed
        self._memory: list[Pixels] = []
        if in_memory:
            _require_memory(index, imgsz)
            with ThreadPoolExecutor(CACHE_THREADS) as pool:
                self._memory = list(pool.map(self._read, range(index.num_images)))

    def sample(self, epoch: int, image: int) -> tuple[Pixels, Rows]:
        """(picture (3, S, S) RGB, rows of class, cxcywh in [0, 1])."""
        random = generator(self._seed, epoch, image, SAMPLE_STREAM)
        hyp, imgsz = self._hyp, self._imgsz
        if random.random() < hyp.mosaic:
            pixels, rows = self._warped_mosaic(random, image)
            if random.random() < hyp.mixup:
                partner = generator(self._seed, epoch, image + MIXED_PARTNER, SAMPLE_STREAM)
                share = partner.beta(augment.MIXUP_BETA, augment.MIXUP_BETA)
                second, more = self._warped_mosaic(partner, int(partner.integers(self._index.num_images)))
                pixels, rows = augment.mix(pixels, second, share), np.concatenate([rows, more])
        else:
            pixels, rows = self._warped_single(random, image)
        shares = augment.pixels_to_shares(rows, imgsz, imgsz)
        if hyp.hsv_h or hyp.hsv_s or hyp.hsv_v:
            pixels = augment.change_colours(pixels, augment.draw_hsv_gains(random, hyp))
        up_down, left_right = random.random(2) < (hyp.flipud, hyp.fliplr)
        pixels, shares = augment.flip(pixels, shares, up_down=bool(up_down), left_right=bool(left_right))
        return to_chw_rgb(pixels), shares

    def _warped_mosaic(self, random: np.random.Generator, image: int) -> tuple[Pixels, Rows]:
        centre = augment.draw_mosaic_centre(random, self._imgsz)
        members = random.permutation(np.append(random.integers(self._index.num_images, size=3), image))
        tiles = [(self._resized(int(member)), self._index.labels[member]) for member in members]
        return self._warp(random, *augment.mosaic(tiles, centre, self._imgsz))

    def _warped_single(self, random: np.random.Generator, image: int) -> tuple[Pixels, Rows]:
        resized = self._resized(image)
        height, width = resized.shape[:2]
        pixels, ratio, (left, top) = letterbox(resized, (self._imgsz, self._imgsz))
        rows = augment.shares_to_pixels(self._index.labels[image], width * ratio, height * ratio, left, top)
        return self._warp(random, pixels, rows)

    def _warp(self, random: np.random.Generator, pixels: Pixels, rows: Rows) -> tuple[Pixels, Rows]:
        warp = augment.draw_warp(random, self._hyp)
        output = self._imgsz, self._imgsz
        matrix = augment.warp_matrix(warp, (pixels.shape[1], pixels.shape[0]), output)
        warped = augment.warp_image(pixels, matrix, output, has_perspective=self._hyp.perspective > 0)
        return warped, augment.warp_boxes(rows, matrix, warp.scale, output)

    def _resized(self, image: int) -> Pixels:
        return self._memory[image] if self._memory else self._read(image)

    def _read(self, image: int) -> Pixels:
        return resize_to(read_image(self._index.paths[image]), self._imgsz, augment=True)


class _TrainingBatches(Dataset[TrainingBatch | DataError]):
    """A batch is looked up by (epoch, step)."""

    def __init__(self, pictures: TrainingPictures, *, batch: int, rank: int, world_size: int) -> None:
        self._pictures, self._batch, self._rank, self._world_size = pictures, batch, rank, world_size
        self._order: tuple[int, Indices] | None = None

    def __getitem__(self, position: tuple[int, int]) -> TrainingBatch | DataError:
        try:
            return self._batch_at(*position)
        except DataError as error:
            return error

    def _batch_at(self, epoch: int, step: int) -> TrainingBatch:
        share = rank_share(global_batch(self._epoch_order(epoch), self._batch, step), self._rank, self._world_size)
        samples = [self._pictures.sample(epoch, int(image)) for image in share]
        return TrainingBatch(
            images=torch.from_numpy(np.stack([pixels for pixels, _ in samples])),
            targets=_stacked_targets([rows for _, rows in samples]),
            indices=torch.from_numpy(share),
        )

    def _epoch_order(self, epoch: int) -> Indices:
        if self._order is None or self._order[0] != epoch:
            pictures = self._pictures
            self._order = epoch, epoch_order(pictures._index.num_images, pictures._seed, epoch)
        return self._order[1]


class _ValidationBatches(Dataset[ValidationBatch | DataError]):
    def __init__(self, index: ImageIndex, imgsz: int, groups: list[tuple[Indices, tuple[int, int]]]) -> None:
        self._index, self._imgsz, self._groups = index, imgsz, groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, position: int) -> ValidationBatch | DataError:
        try:
            return self._batch_at(position)
        except DataError as error:
            return error

    def _batch_at(self, position: int) -> ValidationBatch:
        images, shape = self._groups[position]
        framed = [self._frame(int(image), shape) for image in images]
        return ValidationBatch(
            images=torch.from_numpy(np.stack([pixels for pixels, _, _ in framed])),
            targets=_stacked_targets([rows for _, rows, _ in framed]),
            indices=torch.from_numpy(images),
            shapes=[picture_shape for _, _, picture_shape in framed],
        )

    def _frame(self, image: int, shape: tuple[int, int]) -> tuple[Pixels, Rows, PictureShape]:
        file_hw = int(self._index.shapes_hw[image][0]), int(self._index.shapes_hw[image][1])
        resized = resize_to(read_image(self._index.paths[image]), self._imgsz, augment=False)
        height, width = resized.shape[:2]
        pixels, ratio, (left, top) = letterbox(resized, shape, scaleup=False)
        rows = augment.shares_to_pixels(self._index.labels[image], width * ratio, height * ratio, left, top)
        ratios = height * ratio / file_hw[0], width * ratio / file_hw[1]
        shares = augment.pixels_to_shares(rows, shape[1], shape[0])
        return to_chw_rgb(pixels), shares, (file_hw, (ratios, (left, top)))


class _Positions(Sampler[tuple[int, int]]):
    """The (epoch, step) still to come; read anew at the start of every epoch."""

    def __init__(self) -> None:
        self.positions: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


def _loader(batches: Dataset[Any], order: Any, workers: int) -> DataLoader[Any]:
    return DataLoader(
        batches,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        multiprocessing_context="fork" if workers > 0 else None,
    )


def _raising(batches: Iterator[Batch | DataError]) -> Iterator[Batch]:
    """Batches; a worker hands an error over as a value, because torch would bury it in a traceback."""
    for batch in batches:
        if isinstance(batch, DataError):
            try:
                raise batch
            finally:
                del batch, batches  # an error that holds its own frame would keep the workers until a late collection
        yield batch


def _start_worker(_worker: int) -> None:
    """Workers end with their task; the task's own signals are not for them."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for ignored in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _stacked_targets(all_rows: list[Rows]) -> torch.Tensor:
    """Rows of all pictures with the picture's number in front, (n, 6)."""
    numbered = [
        np.concatenate([np.full((len(rows), 1), number, dtype=np.float32), rows], axis=1)
        for number, rows in enumerate(all_rows)
    ]
    return torch.from_numpy(np.concatenate(numbered))


def available_bytes() -> int:
    """Memory that programs can have without swapping: free pages, and those that only cache files."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _require_memory(index: ImageIndex, imgsz: int) -> None:
    shapes = index.shapes_hw.astype(np.float64)
    needed_bytes = int((shapes.prod(axis=1) * (imgsz / shapes.max(axis=1)) ** 2 * 3).sum())
    free_bytes = available_bytes()
    if needed_bytes > free_bytes * CACHE_MEMORY_SHARE:
        raise DataError(
            f"train.cache: the {index.num_images} decoded pictures need {needed_bytes / 2**30:.1f} GiB on each rank, "
            f"and {free_bytes / 2**30:.1f} GiB are free",
            hint="set train.cache to none",
        )
