"""Samples: one image after augmentation, with its labels. `loader` makes batches of them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from hpc_yolo.data import augment, colours
from hpc_yolo.data.augment import Boxes
from hpc_yolo.data.batch import ImageShape
from hpc_yolo.data.copy_paste import draw_copied, paste_mirrored
from hpc_yolo.data.drawing import Drawing, paint
from hpc_yolo.data.images import Pixels, letterbox_frame, resized_wh
from hpc_yolo.data.labels import ImageIndex, Labels
from hpc_yolo.data.replacement import MAX_REPLACED, ReplacingImages
from hpc_yolo.data.sampler import SAMPLE_STREAM, Indices, generator
from hpc_yolo.data.source import ImageSource
from hpc_yolo.data.tiles import Layer, Tile, lay_out, lay_tiles
from hpc_yolo.spec.recipe import Hyperparameters

Made = TypeVar("Made")
MIXED_PARTNER = 2**39  # keys from here on belong to the second mosaic of a blended pair


class TrainingSamples:
    """Augmented training images, as a function of (epoch, image) alone.

    Args:
        source: the images with their longer side at `imgsz`.
        epochs: number of epochs of the run, the last of which may have no mosaics.
    """

    def __init__(
        self,
        index: ImageIndex,
        source: ImageSource,
        *,
        imgsz: int,
        hyp: Hyperparameters,
        seed: int,
        epochs: int = sys.maxsize,
    ) -> None:
        self._index, self._imgsz, self._hyp, self._seed, self._epochs = index, imgsz, hyp, seed, epochs
        self.images = ReplacingImages(source, index.num_images)
        self._scratch = colours.Scratch()

    def sample(
        self,
        epoch: int,
        image: int,
        shape: tuple[int, int] | None = None,
        key: int | None = None,
        out: Pixels | None = None,
        partners: Indices | None = None,
    ) -> tuple[Pixels, Labels]:
        """Return (image (3, height, width) RGB, labels (n, 5) of class, cxcywh in [0, 1]).

        Args:
            shape: height and width of an image that is not a mosaic; by default, and for mosaics, a square of imgsz.
            key: seed of its augmentation, besides the epoch; by default `image`.
            out: array (height, width, 3) for its pixels, of which the returned image is a view; by default a new one.
            partners: images from which those of its mosaics are drawn; by default all.

        Raises:
            DataError: too many of its images cannot be read any more; see `replacement`.
        """
        painted = functools.partial(paint, scratch=self._scratch, out=out)
        pixels, labels = self.make(painted, epoch, image, shape, key, partners)
        return pixels.transpose(2, 0, 1), labels

    def make(
        self,
        use: Callable[[Drawing], Made],
        epoch: int,
        image: int,
        shape: tuple[int, int] | None = None,
        key: int | None = None,
        partners: Indices | None = None,
    ) -> tuple[Made, Labels]:
        """Return (what `use` makes of the drawing of a sample, its labels); see `sample` for the rest.

        Args:
            use: called again with another drawing where it has read an image that cannot be read any more.
        """
        key = image if key is None else key
        shape = shape or (self._imgsz, self._imgsz)

        def made() -> tuple[Made, Labels]:
            drawing, labels = self._draw(epoch, image, shape, key, partners)
            return use(drawing), labels

        return self.images.make(made)

    def _draw(
        self, epoch: int, image: int, shape: tuple[int, int], key: int, partners: Indices | None
    ) -> tuple[Drawing, Labels]:
        random = generator(self._seed, epoch, key, SAMPLE_STREAM)
        hyp = self._hyp
        second: tuple[Layer, float] | None = None
        if random.random() < hyp.mosaic_in(epoch, self._epochs):
            shape = self._imgsz, self._imgsz
            first, boxes = self._mosaic(random, image, partners)
            if random.random() < hyp.mixup:
                second, more_boxes = self._second_mosaic(epoch, key, partners)
                boxes = np.concatenate([boxes, more_boxes])
        else:
            first, boxes = self._single(random, image, shape)
        labels = augment.boxes_to_labels(boxes, shape[1], shape[0])
        gains = augment.draw_hsv_gains(random, hyp) if hyp.hsv_h or hyp.hsv_s or hyp.hsv_v else None
        up_down, left_right = map(bool, random.random(2) < (hyp.flipud, hyp.fliplr))
        drawing = Drawing(shape, first, second, gains, up_down, left_right)
        return drawing, augment.flip_labels(labels, up_down=up_down, left_right=left_right)

    def _second_mosaic(self, epoch: int, key: int, partners: Indices | None) -> tuple[tuple[Layer, float], Boxes]:
        """Return a mosaic to blend with the first, the fraction of the first, and the boxes of the second."""
        random = generator(self._seed, epoch, key + MIXED_PARTNER, SAMPLE_STREAM)
        ratio = random.beta(augment.MIXUP_BETA, augment.MIXUP_BETA)
        (image,) = self._draw_partners(random, partners, 1)
        layer, boxes = self._mosaic(random, image, partners)
        return (layer, ratio), boxes

    def _draw_partners(self, random: np.random.Generator, partners: Indices | None, count: int) -> Indices:
        if partners is None:
            return random.integers(self._index.num_images, size=count)
        return partners[random.integers(len(partners), size=count)]

    def _mosaic(self, random: np.random.Generator, image: int, partners: Indices | None) -> tuple[Layer, Boxes]:
        """Return the layer of a mosaic of `image` and three others, and its boxes."""
        centre = augment.draw_mosaic_centre(random, self._imgsz)
        members = random.permutation(np.append(self._draw_partners(random, partners, 3), image)).tolist()
        canvas_wh = 2 * self._imgsz, 2 * self._imgsz
        tiles = []
        for position, member in enumerate(members):
            target, source = augment.mosaic_tile(position, self._wh(member), centre, self._imgsz)
            tiles.append(self._tile(member, target, source))
        if self._hyp.copy_paste and any(not tile.outlines.is_empty for tile in tiles):
            tiles = [self._with_copies(random, tiles, canvas_wh)]
        return self._moved(random, tiles, canvas_wh, (self._imgsz, self._imgsz))

    def _with_copies(self, random: np.random.Generator, tiles: list[Tile], canvas_wh: tuple[int, int]) -> Tile:
        """Return the canvas of the tiles, with copies of objects on it, as a tile."""
        canvas, boxes, outlines = lay_out(tiles, canvas_wh)
        chosen = draw_copied(random, outlines, self._hyp.copy_paste)
        canvas, boxes, outlines = paste_mirrored(canvas, boxes, outlines, chosen)
        whole = 0, 0, *canvas_wh
        labels = augment.boxes_to_labels(boxes, *canvas_wh)
        fractions = outlines.scaled(1 / canvas_wh[0], 1 / canvas_wh[1], 0, 0)
        return Tile(lambda: canvas, whole, whole, canvas_wh, labels, fractions)

    def _single(self, random: np.random.Generator, image: int, shape: tuple[int, int]) -> tuple[Layer, Boxes]:
        """Return the layer of one image, and its boxes."""
        width, height = self._wh(image)
        _, (inner_w, inner_h), (left, top) = letterbox_frame((width, height), shape)
        tile = self._tile(image, (left, top, left + inner_w, top + inner_h), (0, 0, width, height))
        wh = shape[1], shape[0]
        return self._moved(random, [tile], wh, wh)

    def _moved(
        self, random: np.random.Generator, tiles: list[Tile], canvas_wh: tuple[int, int], output_wh: tuple[int, int]
    ) -> tuple[Layer, Boxes]:
        """Return the layer of tiles, moved by a warp that is drawn, and the boxes that are left."""
        warp = augment.draw_warp(random, self._hyp)
        matrix = augment.warp_matrix(warp, canvas_wh, output_wh)
        layer, boxes, outlines = lay_tiles(tiles, matrix, canvas_wh, output_wh)
        return layer, augment.warp_boxes(boxes, matrix, warp.scale, output_wh, outlines)

    def _wh(self, image: int) -> tuple[int, int]:
        """Return the width and height of an image as the source reads it."""
        height, width = self._index.shapes_hw[self.images.usable(image)].tolist()
        return resized_wh(width, height, self._imgsz)

    def _tile(self, image: int, target: tuple[float, float, float, float], source: tuple[int, int, int, int]) -> Tile:
        image = self.images.usable(image)
        labels, outlines = self._index.labels[image], self._index.outlines_of(image)
        return Tile(functools.partial(self.images.read, image), target, source, self._wh(image), labels, outlines)


class ValidationSamples:
    """Validation images, padded to a shape and otherwise unchanged.

    Args:
        source: the images with their longer side at the size of the evaluation.
        replaces: use the next image for one that cannot be read any more, as in training.
    """

    def __init__(self, index: ImageIndex, source: ImageSource, *, replaces: bool = False) -> None:
        self._index = index
        self.images = ReplacingImages(source, index.num_images, MAX_REPLACED if replaces else 0)

    def sample(
        self, image: int, shape: tuple[int, int], out: Pixels | None = None
    ) -> tuple[Pixels, Labels, ImageShape]:
        """Return (image (3, *shape) RGB, labels (n, 5) of class, cxcywh in [0, 1], its mapping back to the file).

        Args:
            out: array (*shape, 3) for its pixels, of which the returned image is a view; by default a new one.

        Raises:
            DataError: the image cannot be read any more.
        """
        return self.images.make(functools.partial(self._sample, image, shape, out))

    def _sample(self, image: int, shape: tuple[int, int], out: Pixels | None) -> tuple[Pixels, Labels, ImageShape]:
        image = self.images.usable(image)
        file_hw = int(self._index.shapes_hw[image][0]), int(self._index.shapes_hw[image][1])
        resized = self.images.read(image)
        height, width = resized.shape[:2]
        out = np.empty((*shape, 3), dtype=np.uint8) if out is None else out
        ratio, (left, top) = colours.frame_rgb(resized, out)
        boxes = augment.labels_to_boxes(self._index.labels[image], width * ratio, height * ratio, left, top)
        ratios = height * ratio / file_hw[0], width * ratio / file_hw[1]
        labels = augment.boxes_to_labels(boxes, shape[1], shape[0])
        return out.transpose(2, 0, 1), labels, (file_hw, (ratios, (left, top)))
