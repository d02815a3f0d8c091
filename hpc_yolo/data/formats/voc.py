"""Pascal VOC's format: an XML file of objects for each image, and lists of images.

An object is a box of whole pixels (`voc_files`); objects marked as difficult are used unless the dataset drops them. An
image without objects is background; one with an invalid object, or without its file, is left out with a message.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.files import cache_file, exists, file_state, is_dir, is_file, names_in
from hpc_yolo.data.formats.objects import LabelledObject, cut_box
from hpc_yolo.data.formats.remarks import CUT, WITHOUT_AREA, Remarks, other_shapes
from hpc_yolo.data.formats.split import Annotations, WrittenObject, annotations_of
from hpc_yolo.data.formats.yolo_files import NearMisses
from hpc_yolo.data.image_size import size_of_image
from hpc_yolo.data.image_suffixes import DATASET_SUFFIXES
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.voc_files import (
    ANNOTATIONS,
    VocObject,
    beside_list,
    image_directories,
    listed_files,
    read_voc,
)

UNNAMED = "left out, of a class that names: does not list"
DROPPED = "left out as difficult"
DIFFICULT = "used although marked as difficult (difficult: drop leaves them out)"
MAX_NAMED = 3


class VocSplit:
    """A split in Pascal VOC's format; see `SplitReader`."""

    without_objects = "their XML files have no objects"

    def __init__(self, dataset: Dataset, split: str) -> None:
        """Find the images of `split`.

        Raises:
            DataError: there is no such split, a list is invalid, or there is no image in it.
        """
        sources = dataset.split(split)
        if not sources:
            raise DataError(f"{dataset.source}: there is no split {split}")
        self._index_of = {name: index for index, name in enumerate(dataset.file_names)}
        self._drops_difficult = dataset.drops_difficult
        self._files: dict[Path, Path] = {}  # image -> its XML
        problems: list[str] = []
        for source in sources:
            images = dataset.images.get(split)
            files = listed_files(source, dataset.root, dataset.annotations, images)
            finder = _ImageFinder(source, dataset.root, images, dataset.annotations)
            for file in files:
                try:
                    image = finder.find(file)
                except ValueError as error:
                    problems.append(str(error))
                    continue
                if self._files.setdefault(image, file) != file:
                    problems.append(f"{file}: its image {image} is that of {self._files[image]} too")
        if not self._files:
            first = "\n  ".join(problems[:MAX_NAMED]) or "the list is empty"
            hint = "name the directory of the images in the dataset YAML: images: DIR"
            raise DataError(f"{', '.join(map(str, sources))}: none of its images was found\n  {first}", hint=hint)
        self.images = tuple(sorted(self._files))
        self.problems = tuple(problems)
        self.notes: tuple[str, ...] = ()
        self.cache = _cache_path(sources)
        self._near_misses = NearMisses(lambda: map(str, self._files.values()))
        self._rules = os.fsencode("\n".join((*dataset.file_names, str(dataset.drops_difficult))))
        self._remarks: Remarks[tuple[str, int]] = Remarks()
        self._written_wh: dict[str, tuple[float, float]] = {}

    def objects(self, image: Path) -> list[LabelledObject]:
        """Return the objects of `image`; see `SplitReader.objects`."""
        return self._objects_of(image) or []

    def read(self, image: Path) -> Annotations:
        """Return the objects of `image`; see `SplitReader.read`."""
        found = self._objects_of(image)
        return Annotations(is_missing=True) if found is None else annotations_of(found)

    def read_each(self, image: Path) -> list[WrittenObject] | None:
        """Return every object of `image`; see `SplitReader.read_each`."""
        if not self._has_xml(image):
            return None
        return [
            WrittenObject(number, problem=one)
            if isinstance(one, str)
            else WrittenObject(number, (one.class_index, *one.box))
            for number, one in self._each(image)
        ]

    def where(self, image: Path, position: int) -> str:
        """Return the location of an object of `image`: its file, and its number there."""
        return f"{self._files[image]}: object {position}"

    def state(self, image: Path) -> bytes:
        """Return bytes that change when the XML of `image` does, the names or the choice of difficult objects."""
        file = self._files[image]
        if not (state := file_state(file)):
            is_link = os.path.islink(file)  # noqa: PTH114, a directory that may not be searched is no error
            state = os.fsencode(f"\n{file} none {self._near_misses.find(image, file)} {is_link}")
        return self._rules + state

    def label_file(self, image: Path) -> Path:
        """Return the XML of `image`, which may not exist."""
        return self._files[image]

    def explain_missing(self, image: Path, *, are_all_missing: bool = False) -> str:  # noqa: ARG002, of the interface
        """Return where the XML of `image` would be."""
        directory = self._files[image].parent
        return "" if is_dir(directory) else f"there is no directory {directory}; annotations: DIR names another"

    def remarks(self, index: ImageIndex) -> list[str]:
        """Return what was noticed in the files, a sentence each."""
        found = self._remarks.sentences(lambda place: f"{place[0]}: object {place[1]}")
        return [*found, *other_shapes(index, self._written_wh)]

    def warnings(self, index: ImageIndex) -> list[str]:  # noqa: ARG002
        """Return no warnings: all are remarks, which are kept with a scan."""
        return []

    def _objects_of(self, image: Path) -> list[LabelledObject] | None:
        """Return the objects of `image`; None if it has no XML file, and none is meant as it."""
        if not self._has_xml(image):
            return None
        found = []
        for _, one in self._each(image):
            if isinstance(one, str):
                raise ValueError(one)
            found.append(one)
        return found

    def _has_xml(self, image: Path) -> bool:
        """Return whether `image` has an XML file; a link without a target, which cannot be read, is one.

        Raises:
            ValueError: a file was probably meant as it that has another name.
        """
        file = self._files[image]
        if exists(file) or file.is_symlink():
            return True
        if (near := self._near_misses.find(image, file)) is not None:
            raise ValueError(f"{near}: is not read; the XML file of {image} must be called {file.name}")
        return False

    def _each(self, image: Path) -> Iterator[tuple[int, LabelledObject | str]]:
        """Yield (number, the object or why it is invalid) of each object that is used.

        Raises:
            OSError, ValueError: the XML or the image cannot be read.
        """
        file = self._files[image]
        content = read_voc(file)
        width, height = content.width, content.height
        if min(width, height) > 0:
            self._written_wh[str(image)] = width, height
        else:
            width, height = size_of_image(str(image))
        for number, one in enumerate(content.objects, 1):
            found = one if isinstance(one, str) else self._object(one, (str(file), number), width, height)
            if found is not None:
                yield number, found

    def _object(self, one: VocObject, place: tuple[str, int], width: float, height: float) -> LabelledObject | None:
        """Return an object; None for one that is left out."""
        if one.is_difficult:
            self._remarks.add(DROPPED if self._drops_difficult else DIFFICULT, place)
            if self._drops_difficult:
                return None
        class_index = self._index_of.get(one.name)
        if class_index is None:
            self._remarks.add(f"{UNNAMED} ({one.name})", place)
            return None
        left, top, right, bottom = one.sides
        box, is_cut = cut_box(left / width, top / height, right / width, bottom / height)
        if box is None:
            self._remarks.add(WITHOUT_AREA, place)
            return None
        if is_cut:
            self._remarks.add(CUT, place)
        return LabelledObject(class_index, box)


class _ImageFinder:
    """Finds the image of an XML file by its name without suffix; the name in the file decides between several."""

    def __init__(self, source: Path, root: Path, images: Path | None, annotations: Path | None) -> None:
        self._base = source if is_dir(source) else annotations or beside_list(source, root, ANNOTATIONS)
        self._directories = image_directories(source, root, images, self._base)
        self._names: dict[Path, dict[str, list[str]]] = {}
        self._refused: dict[Path, str | None] = {}  # directories that exist and cannot be listed, and why

    def find(self, file: Path) -> Path:
        """Return the image of `file`.

        Raises:
            ValueError: there is none, or there are several and the file names none of them.
        """
        inside = Path()
        if self._base is not None and file.parent.is_relative_to(self._base):
            inside = file.parent.relative_to(self._base)
        bases = [directory / inside for directory in self._directories]
        for base in bases:
            if names := self._listed(base).get(file.stem):
                return base / (names[0] if len(names) == 1 else _named_in(file, base, names))
        written = _written_name(file)
        for base in bases:
            if written and is_file(base / written):
                return base / written
        described = " or ".join(map(str, self._directories)) or "JPEGImages, which does not exist"
        described += "".join(f"; {directory} cannot be listed: {why}" for directory, why in self._refused.items())
        raise ValueError(f"{file}: there is no image of that name in {described}")

    def _listed(self, directory: Path) -> dict[str, list[str]]:
        """Return stem -> names of the images in `directory`."""
        if directory not in self._names:
            try:
                names = names_in(directory)
            except OSError as error:
                names = []
                if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                    self._refused[directory] = error.strerror
            images: dict[str, list[str]] = {}
            for name in names:
                if Path(name).suffix.lower() in DATASET_SUFFIXES:
                    images.setdefault(Path(name).stem, []).append(name)
            self._names[directory] = images
        return self._names[directory]


def _named_in(file: Path, directory: Path, names: list[str]) -> str:
    """Return the one of several images in `directory` that the XML `file` names.

    Raises:
        ValueError: it names none of them.
    """
    if (written := _written_name(file)) in names:
        return written
    listed = " and ".join(names)
    seen = written or "it has none"
    raise ValueError(f"{file}: {directory} has {listed}, and its <filename> names none of them: {seen}")


def _written_name(file: Path) -> str:
    """Return the name of the image, without directories, in the XML `file`; "" where that has none."""
    try:
        return Path(read_voc(file).file_name.replace("\\", "/")).name
    except (OSError, ValueError):
        return ""


def _cache_path(sources: tuple[Path, ...]) -> Path:
    """Return the cache file of a split, beside its first source."""
    digest = hashlib.sha256(os.fsencode("\n".join(map(str, sources)))).hexdigest()[:8]
    name = sources[0].stem + (f"-{digest}" if len(sources) > 1 else "")
    return cache_file(sources[0].parent, name)
