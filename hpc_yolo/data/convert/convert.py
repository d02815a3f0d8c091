"""Read a dataset in one format and write it in another, into a new directory."""

from __future__ import annotations

import filecmp
import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
import yaml

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.convert.image import SourceImage, Target, Written
from hpc_yolo.data.convert.names import require_class_names, require_image_name
from hpc_yolo.data.convert.to_coco import CocoTarget
from hpc_yolo.data.convert.to_voc import VocTarget
from hpc_yolo.data.convert.to_yolo import YoloTarget
from hpc_yolo.data.dataset import SPLITS, Dataset
from hpc_yolo.data.dataset_format import COCO, YOLO
from hpc_yolo.data.files import plain_directory
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.formats.split import SplitReader
from hpc_yolo.data.image_size import size_of_image
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.new_directory import publish, require_no_link, written_aside

LINK, COPY, NONE = "link", "copy", "none"
DATASET = "dataset.yaml"
NUM_THREADS = 8
MAX_PROBLEMS = 20
MAX_SHOWN = 3


class ConvertedSplit(msgspec.Struct, frozen=True, kw_only=True):
    """What was written of a split. `num_left_out`: images that could not be read or have invalid labels."""

    num_images: int
    num_objects: int
    num_left_out: int


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """A conversion.

    Attributes:
        dataset: the dataset YAML that was written.
        lost: number of objects by what was lost of them.
        remarks: what was noticed while the source was read, a sentence each.
        problems: why images were left out, the first of them.
        is_new: False if the directory was there already, with the same content.
    """

    source: str
    dataset: str
    format: str
    images: str
    splits: dict[str, ConvertedSplit]
    lost: dict[str, int]
    remarks: list[str]
    problems: list[str]
    is_new: bool


def convert(
    source: Dataset,
    directory: Path,
    kind: str,
    *,
    images: str | None = None,
    exist_ok: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Conversion:
    """Write `source` in the format `kind` into the new `directory`, which is complete or absent.

    Args:
        images: `link` or `copy` them into `directory`, or `none`; by default linked for the YOLO layout, which needs
            them beside the labels, and left in place for others.
        exist_ok: accept a directory that has the same content already.
        on_progress: called with (images done, all images).

    Raises:
        DataError: the source cannot be used, the directory exists with other content, or it cannot be written.
    """
    is_filled_link = exist_ok and directory.is_symlink() and _has_content(directory)  # which is compared, not replaced
    place = directory.resolve() if is_filled_link else directory
    _require_new(place, exist_ok=exist_ok)
    readers = {split: open_split(source, split) for split in SPLITS if source.split(split)}
    if not readers:
        raise DataError(f"{source.source}: has no split that exists here")
    require_class_names(source.source, source.file_names, kind)
    images = images or (LINK if kind == YOLO else NONE)
    _require_files(readers, images)
    with written_aside(place) as aside:
        found = _Writer(source, readers, aside, kind, images, on_progress).write()
        is_new = _publish(aside, place)
    return msgspec.structs.replace(found, dataset=str(directory / DATASET), is_new=is_new)


class _Writer:
    """Writes a dataset into `directory`."""

    def __init__(
        self,
        source: Dataset,
        readers: dict[str, SplitReader],
        directory: Path,
        kind: str,
        images: str,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._source, self._readers, self._directory, self._kind = source, readers, directory, kind
        self._images, self._on_progress = images, on_progress
        self._target = _target(kind, directory, source.file_names)
        self._reads_sizes = self._target.needs_sizes or source.format != YOLO  # which other formats have written
        self._plain = functools.cache(lambda parent: plain_directory(parent.absolute()))
        self._roots = self._find_roots()
        self._done = 0
        self._lost: Counter[str] = Counter()
        self._problems: list[str] = []
        self._remarks: list[str] = []

    def write(self) -> Conversion:
        """Write all splits and the dataset YAML."""
        self._require_names()
        splits = {split: self._write_split(split, reader) for split, reader in self._readers.items()}
        directories = {split: str(self._images_directory(split)) for split in splits}
        content = {**self._target.yaml(list(splits), directories), "names": list(self._source.file_names)}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (self._directory / DATASET).write_text(text, encoding="utf-8")
        return Conversion(
            source=str(self._source.source),
            dataset="",
            format=self._kind,
            images=self._images,
            splits=splits,
            lost={what: number for what, number in sorted(self._lost.items()) if number},
            remarks=self._remarks,
            problems=self._problems[:MAX_PROBLEMS],
            is_new=True,
        )

    def _find_roots(self) -> dict[str, Path]:
        """Return the directory to which the names of the images of each split are relative."""
        parents = {
            split: {str(self._plain(image.parent)) for image in reader.images}
            for split, reader in self._readers.items()
        }
        if self._target.has_one_root:
            parents = dict.fromkeys(parents, set().union(*parents.values()))
        return {split: Path(os.path.commonpath(own)) for split, own in parents.items()}

    def _name(self, split: str, image: Path) -> PurePosixPath:
        """Return the path of an image below the directory of its split.

        Raises:
            DataError: it would lead out of that.
        """
        name = PurePosixPath((self._plain(image.parent) / image.name).relative_to(self._roots[split]))
        if ".." in name.parts:
            raise DataError(f"{image}: would be written outside of the new directory, as {name}")
        return name

    def _require_names(self) -> None:
        """Refuse names that the format cannot have, shared labels, and one image that a split names in two ways.

        Raises:
            DataError: naming the image, or both.
        """
        seen: dict[PurePosixPath, tuple[str, Path]] = {}
        for split, reader in self._readers.items():
            if not self._target.has_one_root:
                seen = {}
            for image in reader.images:
                name = self._name(split, image)
                require_image_name(image, name, self._kind)
                other_split, other = seen.setdefault(
                    name if self._kind == COCO else name.with_suffix(""), (split, image)
                )
                if name != self._name(other_split, other):
                    raise DataError(
                        f"{other} and {image} differ in their suffix alone, and would have one file of labels",
                        hint="rename one of them, or convert to coco, which has one file for all images",
                    )
                if other != image and other_split == split:
                    raise DataError(f"{split}: {other} and {image} are one file", hint="name each image once")

    def _images_directory(self, split: str) -> Path | PurePosixPath:
        """Return the directory of the images of a split: relative to the dataset, or where they are left."""
        is_left = self._images == NONE and self._kind != YOLO
        return self._roots[split] if is_left else self._target.images_directory(split)

    def _write_split(self, split: str, reader: SplitReader) -> ConvertedSplit:
        total = sum(len(one.images) for one in self._readers.values())
        images, records, num_objects, problems = [], [], 0, list(reader.problems)
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for found in pool.map(lambda image: self._write_image(split, reader, image), reader.images):
                self._done += 1
                self._on_progress(self._done, total)
                if isinstance(found, str):
                    problems.append(found)
                    continue
                image, written = found
                images.append(image._replace(objects=[]))
                records.append(written.record)
                num_objects += written.num_objects
                self._lost.update(written.lost)
        if not records:
            first = "\n  ".join(problems[:MAX_SHOWN])
            raise DataError(
                f"{self._source.source}: {split}: no image can be converted, of {len(problems)}\n  {first}",
                hint=f"correct them, or write a dataset YAML without {split}:",
            )
        self._target.end(split, records)
        self._problems += problems
        self._remarks += reader.remarks(_index_of(images))
        return ConvertedSplit(num_images=len(records), num_objects=num_objects, num_left_out=len(problems))

    def _write_image(self, split: str, reader: SplitReader, path: Path) -> tuple[SourceImage, Written] | str:
        """Write an image and its labels, and return both; return why it is left out where it cannot be read."""
        try:
            objects = reader.objects(path)
            width, height = size_of_image(str(path)) if self._reads_sizes else (0, 0)
            content = read_content(str(path)) if self._images == COPY else None
        except ValueError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or path}: cannot be read: {error.strerror}"
        name = self._name(split, path)
        if self._images != NONE:
            _place(path, self._directory / self._target.images_directory(split) / name, content)
        image = SourceImage(path, name, width, height, objects)
        return image, self._target.write(split, image)


def _target(kind: str, directory: Path, names: Sequence[str]) -> Target:
    if kind == YOLO:
        return YoloTarget(directory)
    return CocoTarget(directory, names) if kind == COCO else VocTarget(directory, names)


def _index_of(images: Sequence[SourceImage]) -> ImageIndex:
    """Return the paths and sizes of `images`, to which a reader compares those that are written; without labels."""
    shapes_hw = np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2)
    return ImageIndex(FlatPaths.of(str(image.path) for image in images), shapes_hw, FlatLabels.of(()), 0, 0, ())


def _require_files(readers: dict[str, SplitReader], images: str) -> None:
    """Refuse to link, or to leave in place, images that are parts of archives.

    Raises:
        DataError: they are.
    """
    first = next(iter(readers.values())).images[0]
    if images != COPY and not first.is_file():
        raise DataError(
            f"{first}: is not a file of its own, but part of a packed set or an archive", hint="add --images copy"
        )


def _place(source: Path, path: Path, content: bytes | None) -> None:
    """Write `content` to `path`, or link the image `source` there, unless an image of an earlier split is there."""
    if os.path.lexists(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.symlink_to(source.absolute())
    else:
        path.write_bytes(content)


def _require_new(directory: Path, *, exist_ok: bool) -> None:
    require_no_link(directory)
    if directory.is_dir():
        if exist_ok or not _has_content(directory):
            return
        hint = "give a new directory, or --exist-ok if it has the same content already"
        raise DataError(f"{directory}: exists and is not empty; nothing is written over it", hint=hint)
    if os.path.lexists(directory):
        raise DataError(f"{directory}: is a file", hint="give a new directory")


def _has_content(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def _publish(aside: Path, directory: Path) -> bool:
    """Rename `aside` to `directory`; return False if that has the same content already.

    Raises:
        DataError: it has other content.
    """
    if _has_content(directory):
        ours, theirs = _content(aside), _content(directory)
        other = next((name for name in sorted(ours.keys() ^ theirs.keys())), None) or next(
            (name for name in sorted(ours) if not _are_same(ours[name], theirs[name])), None
        )
        if other is not None:
            raise DataError(f"{directory}: has other content: {other} differs", hint="give a new directory")
        return False
    publish(aside, directory)
    return True


def _content(directory: Path) -> dict[str, Path]:
    """Return the files and links below `directory` by relative path, without hidden ones, which scans leave there."""
    found = {}
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = Path(parent, name)
                found[str(path.relative_to(directory))] = path
    return found


def _are_same(first: Path, second: Path) -> bool:
    if first.is_symlink() or second.is_symlink():
        return first.is_symlink() and second.is_symlink() and first.readlink() == second.readlink()
    return filecmp.cmp(first, second, shallow=False)
