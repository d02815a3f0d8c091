"""A split of a packed set: its index has the images and their labels, as a scan found them before they were packed."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.files import file_state
from hpc_yolo.data.formats.objects import LabelledObject
from hpc_yolo.data.formats.split import Annotations, WrittenObject
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.pack.index import open_index
from hpc_yolo.data.pack.layout import is_index


def is_packed(dataset: Dataset, split: str) -> bool:
    """Return True if a source of `split` is the index of a packed set."""
    return any(map(is_index, dataset.split(split)))


class PackedSplit:
    """A split of a packed set; see `SplitReader`. Needs no scan.

    Attributes:
        index: its images.
    """

    problems: tuple[str, ...] = ()
    without_objects = "they were packed without labels"
    notes: tuple[str, ...] = ()

    def __init__(self, dataset: Dataset, split: str) -> None:
        """Map the index of `split` into memory.

        Raises:
            DataError: it cannot be used, or the split has other sources too.
        """
        sources = dataset.split(split)
        if len(sources) > 1:
            raise DataError(
                f"{dataset.source}: {split}: {', '.join(map(str, sources))}: the index of a packed set must be alone",
                hint="pack the whole dataset into one set",
            )
        self.cache = sources[0]  # never written
        index = open_index(sources[0])
        self.index: ImageIndex = index.image_index()
        num_classes = int(index.arrays["labels"][:, 0].max(initial=-1)) + 1
        if num_classes > dataset.num_file_classes:
            raise DataError(
                f"{sources[0]}: has labels of {num_classes} classes, and {dataset.source} has "
                f"{dataset.num_file_classes} names"
            )
        self._find, self._shard_parts = index.find, len(sources[0].parent.parts) + 1

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """Addresses of the images, in the order of the split that was packed."""
        return tuple(map(Path, self.index.paths))

    def read(self, image: Path) -> Annotations:
        """Return the objects of `image`; see `SplitReader.read`."""
        position = self._find(os.fsencode("/".join(image.parts[self._shard_parts :])))
        labels, outlines = self.index.labels[position], self.index.outlines_of(position)
        crowds = self.index.crowds[self.index.crowds[:, 0] == position, 1:]
        return Annotations(labels, [outlines.polygon(number) for number in range(len(labels))], crowds=crowds)

    def objects(self, image: Path) -> list[LabelledObject]:
        """Return the objects and crowds of `image`."""
        found = self.read(image)
        objects = [
            LabelledObject(float(label[0]), tuple((polygon.ravel() if len(polygon) else label[1:]).tolist()))
            for label, polygon in zip(found.labels, found.polygons, strict=True)
        ]
        return objects + [LabelledObject(row[0], tuple(row[1:]), is_crowd=True) for row in found.crowds.tolist()]

    def read_each(self, image: Path) -> list[WrittenObject] | None:
        """Return every object of `image`; all are valid, as only those are packed."""
        labels = self.read(image).labels
        return [WrittenObject(number, tuple(map(float, label))) for number, label in enumerate(labels)]

    def where(self, image: Path, position: int) -> str:
        """Return the location of an object of `image`, for messages."""
        return f"{self.cache}: object {position} of {image.name}"

    def state(self, image: Path) -> bytes:  # noqa: ARG002
        """Return bytes that change when the index does."""
        return file_state(self.cache)

    def label_file(self, image: Path) -> Path:  # noqa: ARG002
        """Return the index, which has the labels of `image`."""
        return self.cache

    def explain_missing(self, image: Path, *, are_all_missing: bool = False) -> str:  # noqa: ARG002
        """Return why `image` may have no labels: it had none when it was packed."""
        return "as the dataset was packed"

    def remarks(self, index: ImageIndex) -> list[str]:  # noqa: ARG002
        """Return no remarks; those of the scan are in the index."""
        return []

    def warnings(self, index: ImageIndex) -> list[str]:  # noqa: ARG002
        """Return no warnings; those of the dataset were printed when it was packed."""
        return []
