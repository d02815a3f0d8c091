"""The YOLO layout: directories or lists of images, and for each image a text file of labels beside them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.files import cache_file, file_state, is_file
from hpc_yolo.data.formats.objects import LabelledObject
from hpc_yolo.data.formats.split import Annotations, WrittenObject, annotations_of
from hpc_yolo.data.formats.yolo_files import NearMisses, explain_missing, label_name, label_path
from hpc_yolo.data.formats.yolo_labels import keypoints_in_polygons, read_each_label, read_objects
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.labels import ImageIndex

Content = TypeVar("Content")


class YoloSplit:
    """A split in the YOLO layout; see `SplitReader`."""

    without_objects = "their label files are empty"

    def __init__(self, dataset: Dataset, split: str) -> None:
        """Find the images of `split`.

        Raises:
            DataError: there is no such split, or no image in it.
        """
        sources = dataset.split(split)
        if not sources:
            raise DataError(f"{dataset.source}: there is no split {split}")
        found = find_images(sources, dataset.root)
        self.images, self.problems, self.notes = found.paths, found.problems, found.notes
        self.cache = _cache_path(sources, self.images[0])
        self._num_classes, self._kpt_shape = dataset.num_file_classes, dataset.kpt_shape
        self._near_misses = NearMisses(lambda: (label_name(str(image)) for image in self.images))

    def objects(self, image: Path) -> list[LabelledObject]:
        """Return the objects of `image`; see `SplitReader.objects`."""
        return self._read_labels_of(image, read_objects) or []

    def read(self, image: Path) -> Annotations:
        """Return the objects of `image`; see `SplitReader.read`."""
        found = self._read_labels_of(image, read_objects)
        return Annotations(is_missing=True) if found is None else annotations_of(found)

    def read_each(self, image: Path) -> list[WrittenObject] | None:
        """Return every object of `image`; see `SplitReader.read_each`."""
        return self._read_labels_of(image, read_each_label)

    def where(self, image: Path, position: int) -> str:
        """Return the line of an object of `image`, as file:line."""
        return f"{label_path(image)}:{position}"

    def _read_labels_of(
        self, image: Path, read: Callable[[Path, int, tuple[int, int] | None], Content]
    ) -> Content | None:
        """Return what `read` returns of the label file of `image`; None if it has none, and none is meant as it."""
        label = label_path(image)
        try:
            return read(label, self._num_classes, self._kpt_shape)
        except FileNotFoundError:
            if label.is_symlink():
                raise
        if (near := self._near_misses.find(image, label)) is not None:
            raise ValueError(f"{near}: is not read; the label file of {image} must be called {label.name}")
        return None

    def state(self, image: Path) -> bytes:
        """Return bytes that change when the label file of `image` does, or a file that is probably meant as it."""
        if state := file_state(label_name(str(image))):
            return state
        label = label_path(image)
        is_link = os.path.islink(label)  # noqa: PTH114, a directory that may not be searched is no error
        return os.fsencode(f"\n{label} none {self._near_misses.find(image, label)} {is_link}")

    def label_file(self, image: Path) -> Path:
        """Return the label file of `image`, which may not exist."""
        return label_path(image)

    def explain_missing(self, image: Path, *, are_all_missing: bool = False) -> str:
        """Return why `image` may have no label file; "" if unknown."""
        return explain_missing(image, are_all_missing=are_all_missing)

    def remarks(self, index: ImageIndex) -> list[str]:  # noqa: ARG002, of the interface
        """Return no remarks: invalid lines are problems of their image."""
        return []

    def warnings(self, index: ImageIndex) -> list[str]:
        """Return a warning if the polygons of the split seem to be boxes with keypoints."""
        num_keypoints = keypoints_in_polygons(index.outlines)
        if not num_keypoints:
            return []
        image = index.paths[int(np.flatnonzero(index.labels.counts)[0])]
        return [
            f"each polygon looks like a box and {counted(num_keypoints, 'keypoint')}, see {label_path(Path(image))}; "
            f"if it is, write kpt_shape: [{num_keypoints}, 2] into the dataset YAML"
        ]


def _cache_path(sources: tuple[Path, ...], first_image: Path) -> Path:
    """Return the cache file of a split, beside the labels of its first image."""
    directory = label_path(first_image).parent
    name = sources[0].stem if is_file(sources[0]) else directory.name
    if len(sources) > 1:  # a split that has the first source alone has a cache of its own
        name += "-" + hashlib.sha256(os.fsencode("\n".join(map(str, sources)))).hexdigest()[:8]
    return cache_file(directory.parent, name)
