"""Copy-paste: objects that have outlines are copied with their pixels to the mirrored position of the same image."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.augment import Boxes
from hpc_yolo.data.images import Pixels
from hpc_yolo.data.polygons import Outlines

MAX_COVERED_FRACTION = 0.30


def draw_copied(random: np.random.Generator, outlines: Outlines, fraction: float) -> npt.NDArray[np.int64]:
    """Draw the objects to copy: `fraction` of those that have an outline, each at most once."""
    outlined = np.flatnonzero(outlines.counts)
    return random.choice(outlined, size=round(fraction * len(outlined)), replace=False)


def paste_mirrored(
    pixels: Pixels, boxes: Boxes, outlines: Outlines, chosen: npt.NDArray[np.int64]
) -> tuple[Pixels, Boxes, Outlines]:
    """Return (pixels, boxes, outlines) with the mirrored copies of the objects `chosen` added.

    A copy that would cover too much of an object, or of an earlier copy, is left out. `pixels` is changed in place.
    """
    height, width = pixels.shape[:2]
    mask = np.zeros((height, width), dtype=np.uint8)
    polygons = []
    for index in chosen:
        box = boxes[index].copy()
        box[[1, 3]] = width - box[[3, 1]]
        if (covered_fractions(boxes[:, 1:], box[1:]) < MAX_COVERED_FRACTION).all():
            boxes = np.concatenate([boxes, box[None]])
            polygon = outlines.polygon(index)
            polygons.append((polygon * (-1, 1) + (width, 0)).astype(np.float32))
            cv2.fillPoly(mask, [polygon.astype(np.int32)], 1)
    if polygons:
        cv2.copyTo(cv2.flip(pixels, 1), cv2.flip(mask, 1), pixels)
        outlines = Outlines.joined([outlines, Outlines.of(polygons)])
    return pixels, boxes, outlines


def covered_fractions(
    boxes_xyxy: npt.NDArray[np.float32], cover_xyxy: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the fraction (n,) of each box that is under `cover_xyxy` (4,); 0 for a box of no area."""
    sides = np.minimum(boxes_xyxy[:, 2:], cover_xyxy[2:]) - np.maximum(boxes_xyxy[:, :2], cover_xyxy[:2])
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    fractions: npt.NDArray[np.float32] = sides.clip(0).prod(axis=1) / areas.clip(np.finfo(np.float32).tiny)
    return fractions
