"""The check of one image: its pixels, its labels, its boxes. The file is read once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpc_yolo.data.check.boxes import box_findings
from hpc_yolo.data.check.looks import Look, look_of
from hpc_yolo.data.check.result import Item
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.decode import lacks_end_mark
from hpc_yolo.data.formats.split import SplitReader, WrittenObject
from hpc_yolo.data.image_checks import describe_os_error, usable_pixels
from hpc_yolo.data.labels import Labels

UNUSABLE = frozenset({"unusable-image", "invalid-label", "unreadable-labels"})
INCOMPLETE = frozenset({"missing-labels", "invalid-label"})


class ImageFindings(NamedTuple):
    """The result of the check of one image.

    Attributes:
        num_bytes: size of the file.
        shape_hw: height and width in pixels; zeros where it cannot be used.
        look: None where it cannot be used.
        labels: valid labels (n, 5), repeated ones once, as training uses them.
        found: (name of the kind, finding).
    """

    num_bytes: int
    shape_hw: tuple[int, int]
    look: Look | None
    labels: Labels
    found: tuple[tuple[str, Item], ...]

    @property
    def is_usable(self) -> bool:
        """True if training uses the image."""
        return not any(kind in UNUSABLE for kind, _ in self.found)

    @property
    def has_readable_labels(self) -> bool:
        """False if a file of labels exists and cannot be read as a whole."""
        return not any(kind == "unreadable-labels" for kind, _ in self.found)

    @property
    def has_complete_labels(self) -> bool:
        """True if there are labels, and all are valid."""
        return not any(kind in INCOMPLETE for kind, _ in self.found)


def check_image(image: Path, reader: SplitReader, imgsz: int) -> ImageFindings:
    """Check one image of a split and its labels.

    Args:
        imgsz: longer side of the image in the training, in pixels.
    """
    found: list[tuple[str, Item]] = []
    address = str(image)
    num_bytes, shape_hw, look = 0, (0, 0), None
    try:
        content = read_content(address)
        num_bytes = len(content)
        pixels = usable_pixels(image, content)
        shape_hw, look = (pixels.shape[0], pixels.shape[1]), look_of(content, pixels)
        if lacks_end_mark(content):
            found.append(("no-end-mark", Item(address)))
    except (OSError, ValueError) as error:
        found.append(("unusable-image", Item(address, _located(_text(image, error), address)[1], address)))
    valid = _check_labels(image, reader, found)
    if look is not None:
        for box in box_findings(_rows(one.label for one in valid), shape_hw, imgsz):
            position = valid[box.box].position
            where = reader.where(image, position)
            found.append((box.kind, Item(where, box.text, address, box=position, weight=box.weight)))
    return ImageFindings(num_bytes, shape_hw, look, _rows(dict.fromkeys(one.label for one in valid)), tuple(found))


def _check_labels(image: Path, reader: SplitReader, found: list[tuple[str, Item]]) -> list[WrittenObject]:
    """Return the valid objects of `image`, and add findings about its labels to `found`."""
    address = str(image)
    try:
        objects = reader.read_each(image)
    except (OSError, ValueError) as error:
        where, text = _located(_text(image, error), str(reader.label_file(image)))
        found.append(("unreadable-labels", Item(where, text, address)))
        return []
    if objects is None:
        found.append(("missing-labels", Item(address, "", address)))
        return []
    invalid = [one for one in objects if one.problem]
    for one in invalid:
        where, text = _located(one.problem, reader.where(image, one.position))
        found.append(("invalid-label", Item(where, text, address, box=one.position)))
    if not objects:
        found.append(("background", Item(address, "", address)))
    return [one for one in objects if not one.problem]


def _rows(labels: Iterable[tuple[float, ...]]) -> Labels:
    return np.array(list(labels), dtype=np.float32).reshape(-1, 5)


def _text(image: Path, error: OSError | ValueError) -> str:
    return describe_os_error(image, error) if isinstance(error, OSError) else str(error)


def _located(text: str, expected: str) -> tuple[str, str]:
    """Return the location in front of `text`, which is probably `expected`, and the rest."""
    if text.startswith(f"{expected}: "):
        return expected, text.removeprefix(f"{expected}: ")
    location, colon, rest = text.partition(": ")
    return (location, rest) if colon else (expected, text)
