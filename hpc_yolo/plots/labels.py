"""Statistics of a dataset's labels: counts by class and size, and positions on the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from hpc_yolo.data.labels import ImageIndex

FORMAT_VERSION = 1
CELLS = 24  # along each side of a map
MAX_COUNTED = 20  # objects on an image; more are counted together
SMALL_PIXELS, LARGE_PIXELS = 32, 96  # sides of squares, as in COCO


class SplitStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one split.

    Attributes:
        class_counts: objects by class, in the order of the names.
        num_small, num_medium, num_large: objects by area below 32 x 32, in between and from 96 x 96 pixels on, at the
            size at which the image enters the model.
        objects_per_image: images with 0, 1, 2 … objects; the last counts those with more too.
        centres, sides: (CELLS, CELLS) objects by the position of their centre (row by row from the top) and by their
            height (rows) and width (columns), in fractions of the image.
    """

    num_images: int
    num_backgrounds: int
    num_corrupt: int
    class_counts: list[int]
    num_small: int
    num_medium: int
    num_large: int
    objects_per_image: list[int]
    centres: list[list[int]]
    sides: list[list[int]]


class LabelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of both splits that a training uses."""

    format_version: int = FORMAT_VERSION
    imgsz: int
    names: list[str]
    train: SplitStatistics
    val: SplitStatistics


def label_statistics(names: Sequence[str], imgsz: int, train: ImageIndex, val: ImageIndex) -> LabelStatistics:
    """Return the statistics of a dataset. `imgsz`: the longer side of an image in training, in pixels."""
    splits = (_split_statistics(index, len(names), imgsz) for index in (train, val))
    return LabelStatistics(imgsz=imgsz, names=list(names), train=next(splits), val=next(splits))


def _split_statistics(index: ImageIndex, num_classes: int, imgsz: int) -> SplitStatistics:
    import numpy as np

    counts, rows = index.labels.counts, index.labels.rows
    shapes = index.shapes_hw.astype(np.float64).reshape(-1, 2)
    seen = np.repeat(shapes * (imgsz / shapes.max(axis=1, keepdims=True)), counts, axis=0)
    areas = rows[:, 3] * seen[:, 1] * rows[:, 4] * seen[:, 0]
    num_small, num_large = int((areas < SMALL_PIXELS**2).sum()), int((areas >= LARGE_PIXELS**2).sum())
    edges = np.linspace(0, 1, CELLS + 1)
    centres, _, _ = np.histogram2d(rows[:, 2], rows[:, 1], bins=(edges, edges))
    sides, _, _ = np.histogram2d(rows[:, 4], rows[:, 3], bins=(edges, edges))
    return SplitStatistics(
        num_images=index.num_images,
        num_backgrounds=index.num_backgrounds,
        num_corrupt=index.num_corrupt,
        class_counts=np.bincount(rows[:, 0].astype(np.int64), minlength=num_classes).tolist(),
        num_small=num_small,
        num_medium=len(rows) - num_small - num_large,
        num_large=num_large,
        objects_per_image=np.bincount(np.minimum(counts, MAX_COUNTED), minlength=2).tolist(),
        centres=centres.astype(int).tolist(),
        sides=sides.astype(int).tolist(),
    )
