"""Samples: one image after augmentation, with its labels. `loader` makes batches of them."""

from __future__ import annotations

import numpy as np

from hpc_yolo.data import augment
from hpc_yolo.data.augment import Boxes
from hpc_yolo.data.batch import ImageShape
from hpc_yolo.data.copy_paste import draw_copied, paste_mirrored
from hpc_yolo.data.images import Pixels, letterbox, to_chw_rgb
from hpc_yolo.data.labels import ImageIndex, Labels
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.sampler import SAMPLE_STREAM, generator
from hpc_yolo.data.source import ImageSource
from hpc_yolo.spec.recipe import Hyperparameters

MIXED_PARTNER = 2**39  # keys from here on belong to the second mosaic of a blended pair


class TrainingSamples:
    """Augmented training images, as a function of (epoch, image) alone.

    Args:
        source: the images with their longer side at `imgsz`.
    """

    def __init__(self, index: ImageIndex, source: ImageSource, *, imgsz: int, hyp: Hyperparameters, seed: int) -> None:
        self._index, self._source, self._imgsz, self._hyp, self._seed = index, source, imgsz, hyp, seed

    def sample(
        self, epoch: int, image: int, shape: tuple[int, int] | None = None, key: int | None = None
    ) -> tuple[Pixels, Labels]:
        """Return (image (3, height, width) RGB, labels (n, 5) of class, cxcywh in [0, 1]).

        Args:
            shape: height and width of an image that is not a mosaic; by default, and for mosaics, a square of imgsz.
            key: seed of its augmentation, besides the epoch; by default `image`.

        Raises:
            DataError: an image cannot be read any more.
        """
        key = image if key is None else key
        random = generator(self._seed, epoch, key, SAMPLE_STREAM)
        hyp = self._hyp
        if random.random() < hyp.mosaic:
            pixels, boxes = self._warped_mosaic(random, image)
            if random.random() < hyp.mixup:
                pixels, boxes = self._blended(pixels, boxes, epoch, key)
        else:
            pixels, boxes = self._warped_single(random, image, shape or (self._imgsz, self._imgsz))
        labels = augment.boxes_to_labels(boxes, pixels.shape[1], pixels.shape[0])
        if hyp.hsv_h or hyp.hsv_s or hyp.hsv_v:
            pixels = augment.change_colours(pixels, augment.draw_hsv_gains(random, hyp))
        up_down, left_right = random.random(2) < (hyp.flipud, hyp.fliplr)
        pixels, labels = augment.flip(pixels, labels, up_down=bool(up_down), left_right=bool(left_right))
        return to_chw_rgb(pixels), labels

    def _blended(self, pixels: Pixels, boxes: Boxes, epoch: int, key: int) -> tuple[Pixels, Boxes]:
        """Return a mosaic blended with a second one, with the boxes of both."""
        random = generator(self._seed, epoch, key + MIXED_PARTNER, SAMPLE_STREAM)
        ratio = random.beta(augment.MIXUP_BETA, augment.MIXUP_BETA)
        second, its_boxes = self._warped_mosaic(random, int(random.integers(self._index.num_images)))
        return augment.blend(pixels, second, ratio), np.concatenate([boxes, its_boxes])

    def _warped_mosaic(self, random: np.random.Generator, image: int) -> tuple[Pixels, Boxes]:
        centre = augment.draw_mosaic_centre(random, self._imgsz)
        members = random.permutation(np.append(random.integers(self._index.num_images, size=3), image))
        tiles = [(self._source.read(m), self._index.labels[m], self._index.outlines_of(m)) for m in members.tolist()]
        pixels, boxes, outlines = augment.mosaic(tiles, centre, self._imgsz)
        if self._hyp.copy_paste and not outlines.is_empty:
            chosen = draw_copied(random, outlines, self._hyp.copy_paste)
            pixels, boxes, outlines = paste_mirrored(pixels, boxes, outlines, chosen)
        return self._warp(random, pixels, boxes, outlines, (self._imgsz, self._imgsz))

    def _warped_single(self, random: np.random.Generator, image: int, shape: tuple[int, int]) -> tuple[Pixels, Boxes]:
        resized = self._source.read(image)
        height, width = resized.shape[:2]
        pixels, ratio, (left, top) = letterbox(resized, shape)
        boxes = augment.labels_to_boxes(self._index.labels[image], width * ratio, height * ratio, left, top)
        outlines = self._index.outlines_of(image).scaled(width * ratio, height * ratio, left, top)
        return self._warp(random, pixels, boxes, outlines, (shape[1], shape[0]))

    def _warp(
        self, random: np.random.Generator, pixels: Pixels, boxes: Boxes, outlines: Outlines, output_wh: tuple[int, int]
    ) -> tuple[Pixels, Boxes]:
        warp = augment.draw_warp(random, self._hyp)
        matrix = augment.warp_matrix(warp, (pixels.shape[1], pixels.shape[0]), output_wh)
        warped = augment.warp_image(pixels, matrix, output_wh, has_perspective=self._hyp.perspective > 0)
        return warped, augment.warp_boxes(boxes, matrix, warp.scale, output_wh, outlines)


class ValidationSamples:
    """Validation images, padded to a shape and otherwise unchanged.

    Args:
        source: the images with their longer side at the size of the evaluation.
    """

    def __init__(self, index: ImageIndex, source: ImageSource) -> None:
        self._index, self._source = index, source

    def sample(self, image: int, shape: tuple[int, int]) -> tuple[Pixels, Labels, ImageShape]:
        """Return (image (3, *shape) RGB, labels (n, 5) of class, cxcywh in [0, 1], its mapping back to the file).

        Raises:
            DataError: the image cannot be read any more.
        """
        file_hw = int(self._index.shapes_hw[image][0]), int(self._index.shapes_hw[image][1])
        resized = self._source.read(image)
        height, width = resized.shape[:2]
        pixels, ratio, (left, top) = letterbox(resized, shape, scaleup=False)
        boxes = augment.labels_to_boxes(self._index.labels[image], width * ratio, height * ratio, left, top)
        ratios = height * ratio / file_hw[0], width * ratio / file_hw[1]
        labels = augment.boxes_to_labels(boxes, shape[1], shape[0])
        return to_chw_rgb(pixels), labels, (file_hw, (ratios, (left, top)))
