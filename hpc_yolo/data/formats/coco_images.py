"""The files of the images that a COCO file names."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.coco_json import CocoImage, ImageId
from hpc_yolo.data.files import names_in, plain_directory

PREFIX = "instances_"  # of COCO's own files: instances_val2017.json has the images in val2017
NUM_TRIED = 20  # images of a file by which the directory of all is found


@dataclass(frozen=True)
class FoundCocoImages:
    """The images of a file.

    Attributes:
        by_path: the entries of each image file, whose path has no `..`; more than one if the JSON names it under
            several ids.
        problems: entries for which no file was found, a sentence each.
    """

    by_path: dict[Path, list[CocoImage]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find_coco_images(
    file: Path, images: Sequence[CocoImage], directory: Path | None, root: Path, split: str
) -> FoundCocoImages:
    """Return the files of `images`, all relative to one directory.

    Args:
        file: the JSON.
        directory: that of the images; None to look for it beside `file` and below `root`.
        root: of the dataset.
        split: its name, which may be that of a directory.

    Raises:
        DataError: two images have the same id.
    """
    _require_own_ids(file, images)
    listing = _Listing()
    candidates = list(_candidates(file, directory, root, split))
    base, drops_directories = _base(images, candidates, listing)
    found, plain = FoundCocoImages(), functools.cache(plain_directory)
    seen: set[ImageId] = set()
    for position, image in enumerate(images):
        if image.id in seen:  # an entry that is repeated, whose objects must not be read twice
            continue
        seen.add(image.id)
        name = _name(image, drops_directories=drops_directories)
        path = base / name
        if image.file_name and listing.has(path):
            found.by_path.setdefault(plain(path.parent) / path.name, []).append(image)
        elif image.file_name:
            refused = listing.refused.get(str(path.parent))
            why = f"does not exist in {base}" if refused is None else f"may be in {path.parent}, which {refused}"
            found.problems.append(f"{file}: images[{position}]: {image.file_name} {why}")
        else:
            found.problems.append(f"{file}: images[{position}]: has no file_name")
    return found


def _require_own_ids(file: Path, images: Sequence[CocoImage]) -> None:
    seen: dict[ImageId, CocoImage] = {}
    for image in images:
        if seen.setdefault(image.id, image).file_name != image.file_name:
            raise DataError(f"{file}: id {image.id!r} is that of {seen[image.id].file_name} and of {image.file_name}")


def _candidates(file: Path, directory: Path | None, root: Path, split: str) -> Iterator[Path]:
    """Yield the directories that may have the images, the most likely first."""
    names = dict.fromkeys([file.stem.removeprefix(PREFIX), split])
    bases = [directory] if directory is not None else [file.parent, root, file.parent.parent]
    for base in bases:
        yield base
        for name in names:
            yield base / name
        if directory is None:
            yield base / "images"
            for name in names:
                yield base / "images" / name


def _base(images: Sequence[CocoImage], candidates: Sequence[Path], listing: _Listing) -> tuple[Path, bool]:
    """Return (the directory of the images, whether directories in their names are left out)."""
    for drops_directories in (False, True):
        for base in candidates:
            tried = (_name(image, drops_directories=drops_directories) for image in images[:NUM_TRIED])
            if any(listing.has(base / name) for name in tried if name.name):
                return base, drops_directories
    tried_names = [_name(image, drops_directories=False) for image in images[:NUM_TRIED]]
    may_have = (
        base for base in candidates if any(str((base / name).parent) in listing.refused for name in tried_names)
    )
    return next(may_have, candidates[0]), False


def _name(image: CocoImage, *, drops_directories: bool) -> PurePosixPath:
    written = image.file_name
    if "\\" in written:
        written = PureWindowsPath(written).as_posix()
    return PurePosixPath(PurePosixPath(written).name) if drops_directories else PurePosixPath(written)


class _Listing:
    """The names in directories, each of which is read once.

    Attributes:
        refused: directories that exist and cannot be listed, each with a clause that says why.
    """

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self.refused: dict[str, str] = {}

    def has(self, path: Path) -> bool:
        """Return True if the file `path` exists."""
        parent, name = os.path.split(path)
        if parent not in self._names:
            try:
                self._names[parent] = frozenset(names_in(Path(parent)))
            except OSError as error:
                self._names[parent] = frozenset()
                if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                    self.refused[parent] = f"cannot be listed: {error.strerror}"
        return name in self._names[parent]
