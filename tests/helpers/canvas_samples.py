"""Training samples by way of a whole mosaic canvas, as they were made before `tiles`: the reference of tests.

Four whole images are decoded and laid out on a canvas of 2 x imgsz, the canvas is warped, then colours change, then
the image is mirrored, each in memory of its own.
"""

from __future__ import annotations

import cv2
import numpy as np

from hpc_yolo.data import augment
from hpc_yolo.data.images import GREY, letterbox, to_chw_rgb
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.sampler import SAMPLE_STREAM, generator
from hpc_yolo.data.source import ImageSource
from hpc_yolo.spec.recipe import Hyperparameters


class CanvasSamples:
    """As `TrainingSamples`, without blends and copies."""

    def __init__(self, index: ImageIndex, source: ImageSource, *, imgsz: int, hyp: Hyperparameters, seed: int) -> None:
        self._index, self._source, self._imgsz, self._hyp, self._seed = index, source, imgsz, hyp, seed

    def sample(self, epoch: int, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (image (3, imgsz, imgsz) RGB, labels)."""
        random = generator(self._seed, epoch, image, SAMPLE_STREAM)
        hyp = self._hyp
        is_mosaic = random.random() < hyp.mosaic
        if is_mosaic:
            canvas, boxes, outlines = self._mosaic(random, image)
        else:
            canvas, boxes, outlines = self._framed(image)
        if outlines.is_empty:
            outlines = Outlines.none(len(boxes))
        output_wh = self._imgsz, self._imgsz
        warp = augment.draw_warp(random, hyp)
        if is_mosaic:
            random.random()  # whether to blend
        matrix = augment.warp_matrix(warp, (canvas.shape[1], canvas.shape[0]), output_wh)
        if hyp.perspective:
            pixels = cv2.warpPerspective(canvas, matrix, output_wh, borderValue=GREY)
        else:
            pixels = cv2.warpAffine(canvas, matrix[:2], output_wh, borderValue=GREY)
        boxes = augment.warp_boxes(boxes, matrix, warp.scale, output_wh, outlines)
        labels = augment.boxes_to_labels(boxes, *output_wh)
        if hyp.hsv_h or hyp.hsv_s or hyp.hsv_v:
            gains = augment.draw_hsv_gains(random, hyp)
            changed = cv2.transform(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV), augment.hsv_matrix(gains))
            pixels = cv2.cvtColor(changed, cv2.COLOR_HSV2BGR)
        up_down, left_right = random.random(2) < (hyp.flipud, hyp.fliplr)
        pixels = pixels[:: -1 if up_down else 1, :: -1 if left_right else 1]
        labels = augment.flip_labels(labels, up_down=bool(up_down), left_right=bool(left_right))
        return to_chw_rgb(np.asarray(pixels, dtype=np.uint8)), labels

    def _mosaic(self, random: np.random.Generator, image: int) -> tuple[np.ndarray, np.ndarray, Outlines]:
        imgsz = self._imgsz
        centre = augment.draw_mosaic_centre(random, imgsz)
        members = random.permutation(np.append(random.integers(self._index.num_images, size=3), image)).tolist()
        canvas = np.full((2 * imgsz, 2 * imgsz, 3), GREY[0], dtype=np.uint8)
        all_boxes, all_outlines = [], []
        for position, member in enumerate(members):
            pixels = self._source.read(member)
            height, width = pixels.shape[:2]
            (x1, y1, x2, y2), (a1, b1, a2, b2) = augment.mosaic_tile(position, (width, height), centre, imgsz)
            canvas[y1:y2, x1:x2] = pixels[b1:b2, a1:a2]
            all_boxes.append(augment.labels_to_boxes(self._index.labels[member], width, height, x1 - a1, y1 - b1))
            all_outlines.append(self._index.outlines_of(member).scaled(width, height, x1 - a1, y1 - b1))
        boxes = np.concatenate(all_boxes)
        boxes[:, 1:] = boxes[:, 1:].clip(0, 2 * imgsz)
        return canvas, boxes, Outlines.joined(all_outlines).clipped(2 * imgsz, 2 * imgsz)

    def _framed(self, image: int) -> tuple[np.ndarray, np.ndarray, Outlines]:
        resized = self._source.read(image)
        height, width = resized.shape[:2]
        canvas, ratio, (left, top) = letterbox(resized, (self._imgsz, self._imgsz))
        boxes = augment.labels_to_boxes(self._index.labels[image], width * ratio, height * ratio, left, top)
        return canvas, boxes, self._index.outlines_of(image).scaled(width * ratio, height * ratio, left, top)
