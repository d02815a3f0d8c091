"""Objects of an image as numbers that any format can be written from, and the labels that they become.

Numbers that are derived from pixels are rounded to `DECIMALS` (half of the last digit is 0.0001 pixels of an image of
20,000): written as text, they are read as the same numbers, so that converted labels give the same samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpc_yolo.data.polygons import Points

DECIMALS = 8
EDGE_SLACK = 1e-6  # of a side: labels of six digits leave the image by less
NO_POLYGON = np.zeros((0, 2), dtype=np.float32)
BOX_NUMBERS = 4
Box = tuple[float, float, float, float]


class LabelledObject(NamedTuple):
    """An object of an image.

    Attributes:
        numbers: its box, cx, cy, width and height, or the points x, y of its polygon, in fractions of the image.
        is_crowd: a region of many objects without labels of their own.
    """

    class_index: float
    numbers: tuple[float, ...]
    is_crowd: bool = False

    @property
    def is_polygon(self) -> bool:
        """True for a polygon, False for a box."""
        return len(self.numbers) > BOX_NUMBERS

    @property
    def box(self) -> Box:
        """Box cx, cy, width, height: that around a polygon."""
        if not self.is_polygon:
            cx, cy, width, height = self.numbers
            return cx, cy, width, height
        xs, ys = self.numbers[0::2], self.numbers[1::2]
        left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
        return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top

    @property
    def polygon(self) -> Points:
        """Points (k, 2) of the polygon, (0, 2) of a box."""
        return np.array(self.numbers, dtype=np.float32).reshape(-1, 2) if self.is_polygon else NO_POLYGON


def cut_box(left: float, top: float, right: float, bottom: float) -> tuple[Box | None, bool]:
    """Return (the box of sides in fractions of the image, whether it was cut at the edges); None without an area.

    A box that leaves the image by less than `EDGE_SLACK` is not cut.
    """
    sides = left, top, right, bottom
    clipped = [min(max(side, 0.0), 1.0) for side in sides]
    is_cut = any(abs(side - inside) > EDGE_SLACK for side, inside in zip(sides, clipped, strict=True))
    left, top, right, bottom = clipped if is_cut else sides
    box = (
        _rounded((left + right) / 2),
        _rounded((top + bottom) / 2),
        _rounded(right - left),
        _rounded(bottom - top),
    )
    return (box if all(side > 0 for side in box[2:]) else None), is_cut


def _rounded(fraction: float) -> float:
    return min(max(round(fraction, DECIMALS), 0.0), 1.0)
