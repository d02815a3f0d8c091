"""Batches of this rank: images read, changed and stacked in worker processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import msgspec
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.data import augment
from hpc_yolo.data.augment import Rows
from hpc_yolo.data.batch import ImageShape, TrainingBatch, ValidationBatch
from hpc_yolo.data.copy_paste import draw_copied, paste_mirrored
from hpc_yolo.data.decode import silence_decoder
from hpc_yolo.data.images import Pixels, letterbox, read_image, resize_to, to_chw_rgb
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.sampler import (
    SAMPLE_STREAM,
    Indices,
    epoch_order,
    generator,
    global_batch,
    image_weights,
    rank_share,
    rect_order,
    rect_plan,
    steps_per_epoch,
)
from hpc_yolo.data.shared_memory import demand_of, into_shared_memory
from hpc_yolo.spec.schema import Hyperparameters

Batch = TypeVar("Batch", TrainingBatch, ValidationBatch)

MIXED_PARTNER = 2**39  # sample numbers from here on belong to the second mosaic of a blended pair
CACHE_THREADS = 8
VALIDATION_PAD = 0.5
BYTES_A_PIXEL = 3


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
        in_memory: bool = False,
        rect: bool = False,
        by_weight: bool = False,
        stride: int = 32,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """
        Args:
            in_memory: keep the resized images of the whole set in memory.
            rect: batches of images of a like shape, in an order that stays, each as small as holds them, in
                multiples of `stride`; no mosaics.
            by_weight: draw images by how rare and how badly found their classes are.
            on_progress: told (images in memory, all images).
        """
        self.index = index
        self.num_images = index.num_images
        self._steps_per_epoch = steps_per_epoch(index.num_images, batch)
        if rect:
            hyp = msgspec.structs.replace(hyp, mosaic=0.0)
        images = TrainingImages(index, imgsz=imgsz, hyp=hyp, seed=seed, in_memory=in_memory, on_progress=on_progress)
        self._plan = rect_plan(index.shapes_hw, batch=batch, imgsz=imgsz, stride=stride, pad=0.0) if rect else None
        self._labels = index.labels if by_weight else None
        self._paths = index.paths
        self._seed, self._batch, self._rank, self._world_size = seed, batch, rank, world_size
        self._shares = _Shares()
        self._images = images
        self._loader = _loader(_TrainingBatches(images), self._shares, workers)
        shapes = self._plan[1] if self._plan else [(imgsz, imgsz)]
        largest = max(height * width for height, width in shapes) * BYTES_A_PIXEL
        share = -(-batch // world_size)
        self.shared_demand = demand_of(share * largest, self._steps_per_epoch, workers)

    def __len__(self) -> int:
        return self._steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0, class_maps: Sequence[float] = ()) -> Iterator[TrainingBatch]:
        """The batches of `epoch` from `first_step` on.

        Args:
            class_maps: mAP of each class before this epoch, for draws by weight; none is like 0 for all.
        """
        order = self._epoch_order(epoch, class_maps)
        # An image that is drawn twice in an epoch is changed in two ways.
        keys = order if self._labels is None else np.arange(len(order))
        self._shares.shares = [
            _Share(epoch, self._own(order, step), self._own(keys, step), self._plan[1][step] if self._plan else None)
            for step in range(first_step, self._steps_per_epoch)
        ]
        return _raising(iter(self._loader))

    def image_paths(self, epoch: int, step: int, rank: int, class_maps: Sequence[float] = ()) -> list[Path]:
        """The files of one rank's share of a global batch; a mosaic brings further ones."""
        images = global_batch(self._epoch_order(epoch, class_maps), self._batch, step)
        return [self._paths[image] for image in rank_share(images, rank, self._world_size).tolist()]

    def samples(self, num_samples: int) -> list[tuple[Pixels, Rows]]:
        """The first images of the first epoch as `TrainingImages.sample` gives them, made in this process.

        Raises:
            DataError: an image cannot be read any more.
        """
        order = self._epoch_order(0, ())[:num_samples]
        shape = self._plan[1][0] if self._plan else None
        return [self._images.sample(0, image, shape) for image in order.tolist()]

    def _epoch_order(self, epoch: int, class_maps: Sequence[float]) -> Indices:
        if self._plan is not None:
            return rect_order(self._plan[0], self._batch)
        weights = None
        if self._labels is not None:
            num_classes = len(class_maps) or int(max(rows[:, 0].max(initial=0) for rows in self._labels)) + 1
            weights = image_weights(self._labels, np.array(class_maps or [0.0] * num_classes))
        return epoch_order(self.num_images, self._seed, epoch, weights)

    def _own(self, order: Indices, step: int) -> Indices:
        return rank_share(global_batch(order, self._batch, step), self._rank, self._world_size)


class ValidationLoader:
    """This rank's share of the validation images, each image on one rank, in groups of one shape.

    The groups are planned over all ranks, so their shapes do not depend on how many there are.
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
    ) -> None:
        """
        Args:
            square: pad every image to a square of `imgsz`.
        """
        self.index = index
        order, shapes = rect_plan(index.shapes_hw, batch=batch, imgsz=imgsz, stride=stride, pad=VALIDATION_PAD)
        if square:
            shapes = [(imgsz, imgsz)] * len(shapes)
        self._is_mine: list[bool] = []
        mine = []
        for start, shape in zip(range(0, len(order), batch), shapes, strict=True):
            # Image number p of the whole order is rank p % world size's, so that shares differ by one at the most.
            images = order[start : start + batch][(rank - start) % world_size :: world_size]
            self._is_mine.append(len(images) > 0)
            if len(images):
                mine.append((images, shape))
        batches = _ValidationBatches(index, imgsz, mine)
        self._loader = _loader(batches, list(range(len(batches))), workers)
        sizes = (len(images) * height * width * BYTES_A_PIXEL for images, (height, width) in mine)
        self.shared_demand = demand_of(max(sizes, default=0), len(mine), workers)

    def places(self) -> Iterator[ValidationBatch | None]:
        """The batches, and None at a place where only other ranks have one: equally many places on every rank."""
        batches = iter(self)
        for is_mine in self._is_mine:
            yield next(batches) if is_mine else None

    def __iter__(self) -> Iterator[ValidationBatch]:
        return _raising(iter(self._loader))


class TrainingImages:
    """Training images after all changes, as a function of (epoch, index) alone."""

    def __init__(
        self,
        index: ImageIndex,
        *,
        imgsz: int,
        hyp: Hyperparameters,
        seed: int,
        in_memory: bool = False,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._index, self._imgsz, self._hyp, self._seed = index, imgsz, hyp, seed
        self._memory: list[Pixels] = []
        if in_memory:
            with ThreadPoolExecutor(CACHE_THREADS) as pool:
                for pixels in pool.map(self._read, range(index.num_images)):
                    self._memory.append(pixels)
                    on_progress(len(self._memory), index.num_images)

    def sample(
        self, epoch: int, image: int, shape: tuple[int, int] | None = None, key: int | None = None
    ) -> tuple[Pixels, Rows]:
        """(image (3, height, width) RGB, rows of class, cxcywh in [0, 1]).

        Args:
            shape: height and width of an image that is no mosaic; without it, and of mosaics, a square of imgsz.
            key: what its changes follow from besides the epoch; the image's number unless said.
        """
        key = image if key is None else key
        random = generator(self._seed, epoch, key, SAMPLE_STREAM)
        hyp = self._hyp
        if random.random() < hyp.mosaic:
            pixels, rows = self._warped_mosaic(random, image)
            if random.random() < hyp.mixup:
                partner = generator(self._seed, epoch, key + MIXED_PARTNER, SAMPLE_STREAM)
                share = partner.beta(augment.MIXUP_BETA, augment.MIXUP_BETA)
                second, more = self._warped_mosaic(partner, int(partner.integers(self._index.num_images)))
                pixels, rows = augment.mix(pixels, second, share), np.concatenate([rows, more])
        else:
            pixels, rows = self._warped_single(random, image, shape or (self._imgsz, self._imgsz))
        shares = augment.pixels_to_shares(rows, pixels.shape[1], pixels.shape[0])
        if hyp.hsv_h or hyp.hsv_s or hyp.hsv_v:
            pixels = augment.change_colours(pixels, augment.draw_hsv_gains(random, hyp))
        up_down, left_right = random.random(2) < (hyp.flipud, hyp.fliplr)
        pixels, shares = augment.flip(pixels, shares, up_down=bool(up_down), left_right=bool(left_right))
        return to_chw_rgb(pixels), shares

    def _warped_mosaic(self, random: np.random.Generator, image: int) -> tuple[Pixels, Rows]:
        centre = augment.draw_mosaic_centre(random, self._imgsz)
        members = random.permutation(np.append(random.integers(self._index.num_images, size=3), image))
        tiles = [(self._resized(m), self._index.labels[m], self._index.outlines_of(m)) for m in members.tolist()]
        pixels, rows, outlines = augment.mosaic(tiles, centre, self._imgsz)
        if self._hyp.copy_paste and not outlines.is_empty:
            chosen = draw_copied(random, outlines, self._hyp.copy_paste)
            pixels, rows, outlines = paste_mirrored(pixels, rows, outlines, chosen)
        return self._warp(random, pixels, rows, outlines, (self._imgsz, self._imgsz))

    def _warped_single(self, random: np.random.Generator, image: int, shape: tuple[int, int]) -> tuple[Pixels, Rows]:
        resized = self._resized(image)
        height, width = resized.shape[:2]
        pixels, ratio, (left, top) = letterbox(resized, shape)
        rows = augment.shares_to_pixels(self._index.labels[image], width * ratio, height * ratio, left, top)
        outlines = self._index.outlines_of(image).scaled(width * ratio, height * ratio, left, top)
        return self._warp(random, pixels, rows, outlines, (shape[1], shape[0]))

    def _warp(
        self, random: np.random.Generator, pixels: Pixels, rows: Rows, outlines: Outlines, output_wh: tuple[int, int]
    ) -> tuple[Pixels, Rows]:
        warp = augment.draw_warp(random, self._hyp)
        matrix = augment.warp_matrix(warp, (pixels.shape[1], pixels.shape[0]), output_wh)
        warped = augment.warp_image(pixels, matrix, output_wh, has_perspective=self._hyp.perspective > 0)
        return warped, augment.warp_boxes(rows, matrix, warp.scale, output_wh, outlines)

    def _resized(self, image: int) -> Pixels:
        return self._memory[image] if self._memory else self._read(image)

    def _read(self, image: int) -> Pixels:
        return resize_to(read_image(self._index.paths[image]), self._imgsz, augment=True)


class _Share(NamedTuple):
    """This rank's part of a global batch: its images, their keys (see `sample`) and, for rectangles, their shape."""

    epoch: int
    images: Indices
    keys: Indices
    shape: tuple[int, int] | None


class _TrainingBatches(Dataset[TrainingBatch | HpcYoloError]):
    """A batch is looked up by its `_Share`."""

    def __init__(self, images: TrainingImages) -> None:
        self._images = images

    def __getitem__(self, share: _Share) -> TrainingBatch | HpcYoloError:
        try:
            batch = self._batch_of(share)
            into_shared_memory([batch.images, batch.targets, batch.indices])
        except HpcYoloError as error:
            return error
        return batch

    def _batch_of(self, share: _Share) -> TrainingBatch:
        samples = [
            self._images.sample(share.epoch, int(image), share.shape, int(key))
            for image, key in zip(share.images, share.keys, strict=True)
        ]
        return TrainingBatch(
            images=torch.from_numpy(np.stack([pixels for pixels, _ in samples])),
            targets=_stacked_targets([rows for _, rows in samples]),
            indices=torch.from_numpy(share.images),
        )


class _ValidationBatches(Dataset[ValidationBatch | HpcYoloError]):
    def __init__(self, index: ImageIndex, imgsz: int, groups: list[tuple[Indices, tuple[int, int]]]) -> None:
        self._index, self._imgsz, self._groups = index, imgsz, groups

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
        images, shape = self._groups[position]
        framed = [self._frame(int(image), shape) for image in images]
        return ValidationBatch(
            images=torch.from_numpy(np.stack([pixels for pixels, _, _ in framed])),
            targets=_stacked_targets([rows for _, rows, _ in framed]),
            indices=torch.from_numpy(images),
            shapes=[image_shape for _, _, image_shape in framed],
        )

    def _frame(self, image: int, shape: tuple[int, int]) -> tuple[Pixels, Rows, ImageShape]:
        file_hw = int(self._index.shapes_hw[image][0]), int(self._index.shapes_hw[image][1])
        resized = resize_to(read_image(self._index.paths[image]), self._imgsz, augment=False)
        height, width = resized.shape[:2]
        pixels, ratio, (left, top) = letterbox(resized, shape, scaleup=False)
        rows = augment.shares_to_pixels(self._index.labels[image], width * ratio, height * ratio, left, top)
        ratios = height * ratio / file_hw[0], width * ratio / file_hw[1]
        shares = augment.pixels_to_shares(rows, shape[1], shape[0])
        return to_chw_rgb(pixels), shares, (file_hw, (ratios, (left, top)))


class _Shares(Sampler[_Share]):
    """The shares still to come; read anew at the start of every epoch."""

    def __init__(self) -> None:
        self.shares: list[_Share] = []

    def __iter__(self) -> Iterator[_Share]:
        return iter(self.shares)

    def __len__(self) -> int:
        return len(self.shares)


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


def _raising(batches: Iterator[Batch | HpcYoloError]) -> Iterator[Batch]:
    """Batches; a worker hands an error over as a value, because torch would bury it in a traceback."""
    for batch in batches:
        if isinstance(batch, HpcYoloError):
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
    silence_decoder()


def _stacked_targets(all_rows: list[Rows]) -> torch.Tensor:
    """Rows of all images with the image's number in front, (n, 6)."""
    numbered = [
        np.concatenate([np.full((len(rows), 1), number, dtype=np.float32), rows], axis=1)
        for number, rows in enumerate(all_rows)
    ]
    return torch.from_numpy(np.concatenate(numbered))


def memory_needed_bytes(index: ImageIndex, imgsz: int) -> int:
    """What the resized images of a set take in memory."""
    shapes = index.shapes_hw.astype(np.float64)
    return int((shapes.prod(axis=1) * (imgsz / shapes.max(axis=1)) ** 2 * 3).sum())
