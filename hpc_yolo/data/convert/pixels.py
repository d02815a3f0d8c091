"""Positions in pixels for fractions of an image: the shortest decimals from which readers get the same fractions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hpc_yolo.data.formats.objects import DECIMALS, Box, cut_box

MOVED_PIXELS = 0.01  # distance from which a side counts as moved
Numbers = npt.NDArray[np.float64]


def box_in_pixels(box: Box, width: int, height: int) -> tuple[list[float], bool]:
    """Return ([left, top, width, height] in pixels of a box, whether it was cut at the edges of the image)."""
    left, top, right, bottom = box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2
    inside, is_cut = cut_box(left, top, right, bottom)
    cx, cy, box_width, box_height = inside if is_cut and inside is not None else box
    x, across = _span(cx, box_width, width)
    y, down = _span(cy, box_height, height)
    return [x, y, across, down], is_cut


def _span(centre: float, length: float, side: int) -> tuple[float, float]:
    """Return (first position, length) in pixels of a side of a box."""
    start, size = (centre - length / 2) * side, length * side
    for digits in range(DECIMALS + 1):
        first, across = round(start, digits), round(size, digits)
        near, far = first / side, (first + across) / side
        if (round((near + far) / 2, DECIMALS), round(far - near, DECIMALS)) == (centre, length):
            return first, across
    return start, size


def polygon_in_pixels(numbers: tuple[float, ...], width: int, height: int) -> list[float]:
    """Return the points x, y of a polygon in pixels."""
    fractions = np.array(numbers).reshape(-1, 2)
    sides = np.array([width, height])
    exact: Numbers = fractions * sides
    for digits in range(DECIMALS + 1):
        rounded = np.round(exact, digits)
        if np.array_equal(np.rint(rounded / sides * 10**DECIMALS) / 10**DECIMALS, fractions):
            return [float(number) for number in rounded.ravel()]
    return [float(number) for number in exact.ravel()]


def whole_pixels(box: Box, width: int, height: int) -> tuple[tuple[int, int, int, int], bool]:
    """Return ((xmin, ymin, xmax, ymax) as VOC has them, whether a side was moved) of a box inside of its image."""
    (left, right), moved_x = _whole_span(box[0], box[2], width)
    (top, bottom), moved_y = _whole_span(box[1], box[3], height)
    return (left + 1, top + 1, right, bottom), moved_x or moved_y


def _whole_span(centre: float, length: float, side: int) -> tuple[tuple[int, int], bool]:
    """Return ((first pixel from 0, first one behind), whether they differ from the exact positions)."""
    exact = (centre - length / 2) * side, (centre + length / 2) * side
    first = min(max(round(exact[0]), 0), side - 1)
    behind = min(max(round(exact[1]), first + 1), side)
    return (first, behind), max(abs(first - exact[0]), abs(behind - exact[1])) > MOVED_PIXELS
