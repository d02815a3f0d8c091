"""The interface of dataset formats: the images of one split, and their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hpc_yolo.data.formats.objects import LabelledObject
from hpc_yolo.data.labels import NO_LABELS, ImageIndex, Labels
from hpc_yolo.data.polygons import Points


class Annotations(NamedTuple):
    """The objects of one image.

    Attributes:
        labels: (n, 5) class, cxcywh in [0, 1].
        polygons: of each object, (k, 2) in [0, 1]; (0, 2) where it has only a box.
        is_missing: the dataset has no labels for the image, which is used as background.
        crowds: (k, 5) regions of many objects without labels of their own: class, cxcywh in [0, 1].
    """

    labels: Labels = NO_LABELS
    polygons: Sequence[Points] = ()
    is_missing: bool = False
    crowds: Labels = NO_LABELS


class WrittenObject(NamedTuple):
    """One object as the dataset has it, for reports on every single one.

    Attributes:
        position: number of its line, or of its entry; see `SplitReader.where`.
        label: class, cxcywh in [0, 1]; () if it is invalid.
        problem: why it is invalid, with its location; "" otherwise.
    """

    position: int
    label: tuple[float, ...] = ()
    problem: str = ""


class SplitReader(Protocol):
    """The images and labels of one split.

    Attributes:
        problems: entries of the dataset for which no image was found, a sentence each.
        notes: remarks on how images were found, a sentence each.
        cache: the file that keeps a scan of the split.
        without_objects: why an image has no objects whose labels are not missing, for messages.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    cache: Path
    without_objects: str

    def objects(self, image: Path) -> list[LabelledObject]:
        """Return the objects and crowds of `image`, from which other formats are written; [] where labels are missing.

        Raises:
            OSError, ValueError: as `read`.
        """
        ...

    @property
    def images(self) -> tuple[Path, ...]:
        """Addresses of the images, sorted."""
        ...

    def read(self, image: Path) -> Annotations:
        """Return the objects of `image`.

        Raises:
            OSError: its labels cannot be read.
            ValueError: they are invalid; the message has the file, the line, the value and the allowed values.
        """
        ...

    def read_each(self, image: Path) -> list[WrittenObject] | None:
        """Return every object of `image`, repeated and invalid ones too; None if the dataset has no labels for it.

        `read` raises the first problem of these objects, and returns those that differ.

        Raises:
            OSError, ValueError: as `read`, for problems of the whole file.
        """
        ...

    def where(self, image: Path, position: int) -> str:
        """Return the location of an object of `image`, for messages; `position` is that of `WrittenObject`."""
        ...

    def state(self, image: Path) -> bytes:
        """Return bytes that change when the labels of `image` do."""
        ...

    def label_file(self, image: Path) -> Path:
        """Return the file that has, or would have, the labels of `image`."""
        ...

    def explain_missing(self, image: Path, *, are_all_missing: bool = False) -> str:
        """Return why `image` may have no labels; "" if unknown.

        Args:
            are_all_missing: no image of the split has labels.
        """
        ...

    def remarks(self, index: ImageIndex) -> list[str]:
        """Return what was noticed while all images were read, a sentence each; a scan keeps it."""
        ...

    def warnings(self, index: ImageIndex) -> list[str]:
        """Return warnings about the labels of the whole split, a sentence each, also of a scan that was kept."""
        ...


def annotations_of(objects: Iterable[LabelledObject]) -> Annotations:
    """Return the labels of objects; of those with equal classes and boxes the first."""
    labels: dict[tuple[float, ...], Points] = {}
    crowds: list[tuple[float, ...]] = []
    for one in objects:
        if one.is_crowd:
            crowds.append((one.class_index, *one.box))
        else:
            labels.setdefault((one.class_index, *one.box), one.polygon)
    return Annotations(_rows(labels), list(labels.values()), crowds=_rows(crowds))


def _rows(labels: Iterable[tuple[float, ...]]) -> Labels:
    return np.array(list(labels), dtype=np.float32).reshape(-1, 5)
