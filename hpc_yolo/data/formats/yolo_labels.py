"""Lines of YOLO label files: a class with a box, with a polygon, or, given `kpt_shape`, with a box and keypoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_yolo.data.files import read_bytes
from hpc_yolo.data.formats.objects import BOX_NUMBERS, LabelledObject, cut_box
from hpc_yolo.data.formats.split import WrittenObject, annotations_of
from hpc_yolo.data.labels import Labels
from hpc_yolo.data.polygons import Outlines, Points

VISIBILITIES = (0, 1, 2)
KEYPOINT_SLACK = 0.55  # of a side of the box, from its centre: keypoints at its edge count as inside
MIN_CLIPPED, MAX_CLIPPED = -1, 2  # numbers beyond are not those of a box at the edge of the image
MIN_KEYPOINT_LABELS = 5
MIN_KEYPOINTS = 20


def read_labels(path: Path, num_classes: int, kpt_shape: tuple[int, int] | None = None) -> tuple[Labels, list[Points]]:
    """Return (labels (n, 5) of class, cxcywh in [0, 1], a polygon for each) of a label file, without duplicates.

    The bounding box of a polygon is its label; a box has a polygon of no points. See `read_objects`.
    """
    found = annotations_of(read_objects(path, num_classes, kpt_shape))
    return found.labels, list(found.polygons)


def read_objects(path: Path, num_classes: int, kpt_shape: tuple[int, int] | None = None) -> list[LabelledObject]:
    """Return the objects of a label file.

    A line has a class and a box of four numbers, or a class and a polygon of at least three points; a file may have
    both.

    Args:
        kpt_shape: (keypoints, numbers of each) that follow the box in each line; they are left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: naming file, line, the value and the allowed values.
    """
    lines = label_lines(path)
    return [_parse_line(f"{path}:{number}", line, num_classes, kpt_shape) for number, line in lines]


def read_each_label(path: Path, num_classes: int, kpt_shape: tuple[int, int] | None = None) -> list[WrittenObject]:
    """Return the object of each line of a label file, repeated and invalid ones too; see `read_labels`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text.
    """
    objects = []
    for number, line in label_lines(path):
        try:
            one = _parse_line(f"{path}:{number}", line, num_classes, kpt_shape)
            objects.append(WrittenObject(number, (one.class_index, *one.box)))
        except ValueError as error:
            objects.append(WrittenObject(number, problem=str(error)))
    return objects


def label_lines(path: Path) -> list[tuple[int, str]]:
    """Return (number from 1, text) of each line of a label file that is not blank.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text (byte {error.start})") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _parse_line(where: str, line: str, num_classes: int, kpt_shape: tuple[int, int] | None) -> LabelledObject:
    values = _parse_numbers(where, line)
    class_index, numbers = values[0], values[1:]
    numbers = _require_form(where, numbers, kpt_shape)
    if class_index != int(class_index) or not 0 <= class_index < num_classes:
        raise ValueError(f"{where}: class {class_index:g}; the {num_classes} classes are 0 to {num_classes - 1}")
    for number in numbers:
        if not 0 <= number <= 1:
            raise ValueError(f"{where}: coordinate {number:g}; coordinates are fractions of the image, 0 to 1")
    return LabelledObject(class_index, tuple(numbers))


def clipped_line(line: str, num_classes: int, kpt_shape: tuple[int, int] | None = None) -> str | None:
    """Return a line with the part of its object inside the image; None if that is nothing, or the line is invalid.

    Keypoints are kept as they are. Numbers far outside are no fractions, but pixels or something else.
    """
    try:
        class_index, *written = _parse_numbers("", line)
        numbers = _require_form("", written, kpt_shape)
    except ValueError:
        return None
    if min(numbers) < MIN_CLIPPED or max(numbers) > MAX_CLIPPED:
        return None
    if len(numbers) == BOX_NUMBERS:
        cx, cy, width, height = numbers
        clipped: tuple[float, ...] = cut_box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)[0] or ()
    else:
        clipped = tuple(min(max(number, 0.0), 1.0) for number in numbers)
        if min(LabelledObject(class_index, clipped).box[2:]) <= 0:
            return None
    changed = " ".join([*line.split()[:1], *map(_number, clipped), *line.split()[1 + len(numbers) :]])
    try:
        _parse_line("", changed, num_classes, kpt_shape)
    except ValueError:
        return None
    return changed


def label_line(one: LabelledObject) -> str:
    """Return the line of an object, which `read_objects` reads as the same numbers."""
    return " ".join([f"{one.class_index:.0f}", *map(_number, one.numbers)])


def _number(value: float) -> str:
    text = repr(value)
    return np.format_float_positional(value, trim="-") if "e" in text else text.removesuffix(".0")


def as_polygon(points: Sequence[float]) -> tuple[float, ...]:
    """Return the points x, y of a polygon in an order whose line can only be read as a polygon; () if there is none.

    A line of some polygons that touch edges could be a box and keypoints; from another point on it cannot.
    """
    numbers = list(points)
    for _ in range(0, len(numbers), 2):
        if not _is_pose(numbers):
            return tuple(numbers)
        numbers = [*numbers[2:], *numbers[:2]]
    return ()


def _parse_numbers(where: str, line: str) -> list[float]:
    try:
        values = [float(column) for column in line.split()]
    except ValueError:
        hint = "; columns are separated by spaces" if "," in line or ";" in line else ""
        raise ValueError(f"{where}: {line.strip()[:60]!r} holds something that is not a number{hint}") from None
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{where}: {line.strip()[:60]!r} holds a number that is not finite")
    return values


def _require_form(where: str, numbers: list[float], kpt_shape: tuple[int, int] | None) -> list[float]:
    """Return the numbers of a line that are used: of a box with keypoints only the box.

    Raises:
        ValueError: they are neither a box nor a polygon, or can only be a box with keypoints.
    """
    if len(numbers) == BOX_NUMBERS:
        return numbers
    columns = f"{where}: {len(numbers) + 1} columns"
    if kpt_shape is not None:
        needed = BOX_NUMBERS + math.prod(kpt_shape)
        if len(numbers) != needed:
            raise ValueError(
                f"{columns}; with kpt_shape {list(kpt_shape)} lines have {needed + 1}, or 5 without keypoints"
            )
        return numbers[:BOX_NUMBERS]
    if _is_pose(numbers):
        num_points = (len(numbers) - BOX_NUMBERS) // 3
        raise ValueError(
            f"{columns} are a class, a box and {num_points} keypoints with visibility, not a polygon; to use the box, "
            f"write kpt_shape: [{num_points}, 3] into the dataset YAML"
        )
    if len(numbers) < 6 or len(numbers) % 2:
        needed_columns = "5 are needed (class, cx, cy, w, h), or a class and a polygon of three points or more"
        hint = "; a label has no confidence, which --save-conf writes" if len(numbers) == 5 else ""
        raise ValueError(f"{columns}; {needed_columns}{hint}")
    return numbers


def _is_pose(numbers: list[float]) -> bool:
    """Return whether a line can only be a box and keypoints of x, y and visibility: 0, 1 or 2."""
    rest = numbers[BOX_NUMBERS:]
    if len(rest) < 3 or len(rest) % 3 or any(number not in VISIBILITIES for number in rest[2::3]):
        return False
    if len(numbers) % 2 or 2 in rest[2::3]:
        return True
    visible = [(x, y) for x, y, flag in zip(rest[0::3], rest[1::3], rest[2::3], strict=True) if flag]
    cx, cy, width, height = numbers[:BOX_NUMBERS]
    return bool(visible) and all(
        abs(x - cx) <= KEYPOINT_SLACK * width and abs(y - cy) <= KEYPOINT_SLACK * height for x, y in visible
    )


def keypoints_in_polygons(outlines: Outlines) -> int:
    """Return how many keypoints of two numbers all polygons of a split seem to be, 0 where they are polygons.

    A single line is ambiguous. They are keypoints if all have equally many points, and in each the first two are the
    centre and the size of a box around all others.
    """
    counts = outlines.counts[outlines.counts > 0]
    if not len(counts) or counts.min() != counts.max():
        return 0
    num_points = int(counts[0]) - 2
    if len(counts) < MIN_KEYPOINT_LABELS or num_points * len(counts) < MIN_KEYPOINTS:
        return 0
    lines = outlines.points.reshape(len(counts), -1, 2)
    centres, sizes, points = lines[:, :1], lines[:, 1:2], lines[:, 2:]
    is_inside = (abs(points - centres) <= KEYPOINT_SLACK * sizes).all(axis=2)
    is_absent = (points == 0).all(axis=2)
    return num_points if (is_inside | is_absent).all() and is_inside.sum() > is_absent.sum() else 0
