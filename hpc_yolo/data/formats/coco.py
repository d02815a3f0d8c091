"""COCO's format: a JSON file with the images and objects of a split.

- The class of an object is the position of its category's name among the names of the dataset.
- A polygon is the outline of its object, and the box around it its label, as in the YOLO layout. Several polygons are
  joined to one. A mask (RLE), and an outline that does not fit its box, is left out for the box.
- A crowd (`iscrowd`) is no object; detections in it are ignored in evaluations.
- An image without objects is background. One with an invalid object is left out with a message.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.coco_json import CocoImage, CocoImages, annotation_file, read_coco
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.files import cache_file, file_state
from hpc_yolo.data.formats.coco_images import find_coco_images
from hpc_yolo.data.formats.coco_objects import CocoObjects
from hpc_yolo.data.formats.objects import LabelledObject
from hpc_yolo.data.formats.remarks import other_shapes
from hpc_yolo.data.formats.split import Annotations, WrittenObject, annotations_of
from hpc_yolo.data.image_size import size_of_image
from hpc_yolo.data.labels import ImageIndex

MAX_NAMED = 3
POSITIONS_OF_A_FILE = 10**9  # more than any file has objects: positions are those of all files, one after the other


class CocoSplit:
    """A split in COCO's format; see `SplitReader`."""

    without_objects = "the annotations have none in them"

    def __init__(self, dataset: Dataset, split: str) -> None:
        """Find the images of `split`.

        Raises:
            DataError: there is no such split, a file of it is invalid, or there is no image in it.
        """
        if not dataset.split(split):
            raise DataError(f"{dataset.source}: there is no split {split}")
        self._files = [annotation_file(source) for source in dataset.split(split)]
        self._names = dataset.file_names
        self._entries: dict[Path, list[tuple[int, CocoImage]]] = {}  # image -> position of the file, entry in it
        problems: list[str] = []
        for number, file in enumerate(self._files):
            images = read_coco(file, CocoImages).images
            found = find_coco_images(file, images, dataset.images.get(split), dataset.root, split)
            problems += found.problems
            for path, entries in found.by_path.items():
                self._entries.setdefault(path, []).extend((number, entry) for entry in entries)
        if not self._entries:
            raise _no_images(self._files, problems)
        self.images = tuple(sorted(self._entries))
        self.problems = tuple(problems)
        self.notes: tuple[str, ...] = ()
        self.cache = _cache_path(self._files)
        self._state = b"".join(map(file_state, self._files)) + os.fsencode("\n".join(self._names))
        self._objects: list[CocoObjects] | None = None
        self._lock = threading.Lock()

    def objects(self, image: Path) -> list[LabelledObject]:
        """Return the objects of `image`; see `SplitReader.objects`."""
        files = self._read_files()
        return [
            one for number, entry in self._entries[image] for one in files[number].of(entry.id, *_size(image, entry))
        ]

    def read(self, image: Path) -> Annotations:
        """Return the objects of `image`; see `SplitReader.read`."""
        return annotations_of(self.objects(image))

    def read_each(self, image: Path) -> list[WrittenObject] | None:
        """Return every object of `image`; see `SplitReader.read_each`."""
        files = self._read_files()
        return [
            one._replace(position=number * POSITIONS_OF_A_FILE + one.position)
            for number, entry in self._entries[image]
            for one in files[number].each(entry.id, *_size(image, entry))
        ]

    def where(self, image: Path, position: int) -> str:  # noqa: ARG002, of the interface
        """Return the location of an object, as file and its position in the list of annotations."""
        number, index = divmod(position, POSITIONS_OF_A_FILE)
        return f"{self._files[number]}: annotations[{index}]"

    def state(self, image: Path) -> bytes:  # noqa: ARG002, of the interface
        """Return bytes that change when the files do."""
        return self._state

    def label_file(self, image: Path) -> Path:
        """Return the file that has the objects of `image`."""
        return self._files[self._entries[image][0][0]]

    def explain_missing(self, image: Path, *, are_all_missing: bool = False) -> str:  # noqa: ARG002
        """Return "": the file has an entry for every image."""
        return ""

    def remarks(self, index: ImageIndex) -> list[str]:
        """Return what was noticed in the files, a sentence each."""
        written = {
            str(path): (entries[0][1].width or 0, entries[0][1].height or 0) for path, entries in self._entries.items()
        }
        return [*(remark for found in self._read_files() for remark in found.remarks()), *other_shapes(index, written)]

    def warnings(self, index: ImageIndex) -> list[str]:  # noqa: ARG002
        """Return no warnings: all are remarks, which are kept with a scan."""
        return []

    def _read_files(self) -> list[CocoObjects]:
        """Return the objects of each file, which the first of many threads reads."""
        with self._lock:
            if self._objects is None:
                self._objects = [CocoObjects(file, self._names) for file in self._files]
            return self._objects


def _size(path: Path, entry: CocoImage) -> tuple[float, float]:
    """Return width and height of an image in pixels: as its entry says, or those of the file."""
    if entry.width and entry.height and min(entry.width, entry.height) > 0:
        return entry.width, entry.height
    return size_of_image(str(path))


def _no_images(files: list[Path], problems: list[str]) -> DataError:
    listed = ", ".join(map(str, files))
    if not problems:
        return DataError(f"{listed}: the list of images is empty")
    first = "\n  ".join(problems[:MAX_NAMED])
    return DataError(
        f"{listed}: none of its {len(problems)} images was found\n  {first}",
        hint="name the directory of the images in the dataset YAML: images: DIR",
    )


def _cache_path(files: list[Path]) -> Path:
    """Return the cache file of a split, beside its first file."""
    name = files[0].stem
    if len(files) > 1:  # a split that has the first file alone has a cache of its own
        name += "-" + hashlib.sha256(os.fsencode("\n".join(map(str, files)))).hexdigest()[:8]
    return cache_file(files[0].parent, name)
