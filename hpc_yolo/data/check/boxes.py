"""Findings about the boxes of one image: beyond its frame, tiny, of extreme shape, repeated."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hpc_yolo.data.check.kinds import MAX_ASPECT, MAX_BEYOND_PIXELS, MIN_SIDE_PIXELS, SAME_BOX_IOU
from hpc_yolo.data.labels import Labels

Corners = npt.NDArray[np.float64]
MAX_COMPARED = 2000  # boxes of one image that are compared with each other


class BoxFinding(NamedTuple):
    """A finding about one box. `weight`: see `result.Item`."""

    kind: str
    box: int
    text: str
    weight: float


def box_findings(labels: Labels, shape_hw: tuple[int, int], imgsz: int) -> list[BoxFinding]:
    """Return the findings about the boxes of an image, each box with its position in `labels`.

    Args:
        shape_hw: height and width of the image in pixels.
        imgsz: longer side of the image in the training, in pixels.
    """
    if not len(labels):
        return []
    height, width = shape_hw
    sides = labels[:, 3:].astype(np.float64) * (width, height)
    centres = labels[:, 1:3].astype(np.float64) * (width, height)
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    has_area = np.asarray((sides > 0).all(axis=1))
    found = [BoxFinding("no-area", int(box), _size(sides[box]), 0.0) for box in np.flatnonzero(~has_area)]
    found += _beyond_frame(corners, has_area, width, height)
    found += _small_or_long(sides, has_area, imgsz / max(shape_hw))
    return found + _repeated(labels, corners, has_area)


def overlaps(corners: Corners) -> npt.NDArray[np.float64]:
    """Return the IoU (n, n) of boxes (n, 4) xyxy with each other; 0 where neither has an area."""
    inner = np.minimum(corners[:, None, 2:], corners[None, :, 2:]) - np.maximum(
        corners[:, None, :2], corners[None, :, :2]
    )
    intersections = inner.clip(0).prod(axis=2)
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    unions = areas[:, None] + areas[None, :] - intersections
    return np.asarray(np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0))


def _beyond_frame(corners: Corners, has_area: npt.NDArray[np.bool_], width: int, height: int) -> list[BoxFinding]:
    beyond = np.maximum(-corners[:, :2], corners[:, 2:] - (width, height)).max(axis=1)
    return [
        BoxFinding("beyond-frame", int(box), f"by {beyond[box]:.0f} pixels of {width} x {height}", float(beyond[box]))
        for box in np.flatnonzero(has_area & (beyond > MAX_BEYOND_PIXELS))
    ]


def _small_or_long(sides: Corners, has_area: npt.NDArray[np.bool_], ratio: float) -> list[BoxFinding]:
    """Return findings about the shape of boxes. `ratio`: pixels in the training for each pixel of the image."""
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    is_tiny = shorter * ratio < MIN_SIDE_PIXELS
    found = [
        BoxFinding("tiny-box", int(box), f"{_size(sides[box])} of the image", -float(shorter[box]))
        for box in np.flatnonzero(has_area & is_tiny)
    ]
    return found + [
        BoxFinding("extreme-aspect", int(box), f"{_size(sides[box])} of the image", float(longer[box] / shorter[box]))
        for box in np.flatnonzero(has_area & ~is_tiny & (longer > MAX_ASPECT * shorter))
    ]


def _repeated(labels: Labels, corners: Corners, has_area: npt.NDArray[np.bool_]) -> list[BoxFinding]:
    """Return boxes that an earlier one of the image repeats: of the same class, or of another."""
    boxes = np.flatnonzero(has_area)[:MAX_COMPARED]
    if len(boxes) < 2:
        return []
    classes = labels[boxes, 0]
    is_same_box = np.triu(overlaps(corners[boxes]) >= SAME_BOX_IOU, 1)
    is_same_class = classes[:, None] == classes[None, :]
    repeats = np.flatnonzero((is_same_box & is_same_class).any(axis=0))
    twofold = np.flatnonzero((is_same_box & ~is_same_class).any(axis=0))
    found = [BoxFinding("repeated-box", int(boxes[box]), "", 0.0) for box in repeats]
    for box in twofold:
        other = int(np.flatnonzero(is_same_box[:, box] & ~is_same_class[:, box])[0])
        text = f"classes {classes[other]:.0f} and {classes[box]:.0f}"
        found.append(BoxFinding("two-classes", int(boxes[box]), text, 0.0))
    return found


def _size(sides: npt.NDArray[np.float64]) -> str:
    return f"{sides[0]:.1f} x {sides[1]:.1f} pixels"
