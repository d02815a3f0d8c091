"""Objects copied with their pixels to the mirrored place of the same image; needs outlines."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.augment import Rows
from hpc_yolo.data.images import Pixels
from hpc_yolo.data.polygons import Outlines

MAX_COVERED_SHARE = 0.30


def draw_copied(random: np.random.Generator, outlines: Outlines, share: float) -> npt.NDArray[np.int64]:
    """Which objects to copy: `share` of those that have an outline, each at most once."""
    outlined = np.flatnonzero(outlines.counts)
    return random.choice(outlined, size=round(share * len(outlined)), replace=False)


def paste_mirrored(
    pixels: Pixels, rows: Rows, outlines: Outlines, chosen: npt.NDArray[np.int64]
) -> tuple[Pixels, Rows, Outlines]:
    """(image, rows of class, xyxy in pixels, outlines) with the mirrored copies of `chosen` added.

    A copy that would cover too much of an object, or of an earlier copy, is left out. `pixels` is drawn into.
    """
    height, width = pixels.shape[:2]
    mask = np.zeros((height, width), dtype=np.uint8)
    polygons = []
    for index in chosen:
        row = rows[index].copy()
        row[[1, 3]] = width - row[[3, 1]]
        if (covered_shares(rows[:, 1:], row[1:]) < MAX_COVERED_SHARE).all():
            rows = np.concatenate([rows, row[None]])
            polygon = outlines.polygon(index)
            polygons.append((polygon * (-1, 1) + (width, 0)).astype(np.float32))
            cv2.fillPoly(mask, [polygon.astype(np.int32)], 1)
    if polygons:
        cv2.copyTo(cv2.flip(pixels, 1), cv2.flip(mask, 1), pixels)
        outlines = Outlines.joined([outlines, Outlines.of(polygons)])
    return pixels, rows, outlines


def covered_shares(boxes_xyxy: npt.NDArray[np.float32], cover_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n,): how much of each box lies under `cover_xyxy` (4,), as a share of the box; 0 for a box of no area."""
    sides = np.minimum(boxes_xyxy[:, 2:], cover_xyxy[2:]) - np.maximum(boxes_xyxy[:, :2], cover_xyxy[:2])
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    shares: npt.NDArray[np.float32] = sides.clip(0).prod(axis=1) / areas.clip(np.finfo(np.float32).tiny)
    return shares
