"""The dataset YAML: where the pictures of each split are, and what the classes are called. Needs neither torch nor
OpenCV, so that a login node can check it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hpc_yolo.errors import DataError
from hpc_yolo.resources import dataset_names, shipped_dataset

IMAGE_SUFFIXES = frozenset([".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"])
SPLITS = ("train", "val", "test")
ABSENT = ("", "null", "~")
EXAMPLE = "see configs/data/shapes.yaml for the form, or draw a set with: hpc-yolo data synth datasets/shapes"


class _TextLoader(yaml.BaseLoader):
    """Every value as it is written (a class named no is no False), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(problem="a key is written twice", problem_mark=node.start_mark)
        return mapping


@dataclass(frozen=True)
class Dataset:
    """A dataset's splits, each one or more folders or lists of pictures, and the names of its classes.

    With `single_cls` its `num_file_classes` classes are taken for one. `messages` says what a person should know of
    the file.
    """

    source: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    names: tuple[str, ...]
    num_file_classes: int
    single_cls: bool = False
    messages: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def split(self, name: str) -> tuple[Path, ...]:
        """The folders or lists of the split `name`: train, val or test."""
        folders: tuple[Path, ...] = getattr(self, name)
        return folders


def load_dataset(path: Path, *, single_cls: bool = False) -> Dataset:
    """Read the dataset YAML at `path` and check that its splits are there.

    `path:` inside it is relative to the YAML's own folder or, if that is not there, to the working directory; splits
    are relative to it, and `../` in front of one that is not there is left out, as some exports need. The number of
    classes is that of the names. `download:` is never run.

    Args:
        single_cls: take all classes for one; it is called item, unless there is one name only.

    Raises:
        DataError: naming file and key.
    """
    content = _read_yaml(path)
    for key in ("train", "val", "names"):
        if not content.get(key):
            raise DataError(f"{path}: {key}: is missing", hint=EXAMPLE)
    root = _root(path, content.get("path"))
    splits = {name: _split_paths(path, name, root, content) for name in SPLITS}
    names = _names(path, content["names"])
    return Dataset(
        source=path,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        names=("item",) if single_cls and len(names) > 1 else names,
        num_file_classes=len(names),
        single_cls=single_cls,
        messages=_contradictions(path, content.get("nc"), len(names)),
    )


def list_images(split: tuple[Path, ...]) -> list[Path]:
    """The pictures of a split: all below its folders, and those that its lists name; by path.

    Raises:
        DataError: there is none, or a folder or list cannot be read.
    """
    images: set[Path] = set()
    for source in split:
        listed = _files_below(source) if source.is_dir() else _listed_images(source)
        images.update(image for image in listed if image.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        where = ", ".join(map(str, split))
        raise DataError(f"no pictures in {where}", hint=f"pictures end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return sorted(images)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files below `folder`, also where folders are links, each folder once."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in files)


def _refuse_folder(error: OSError) -> None:
    """Pictures that cannot be listed would be missed by nobody."""
    raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_TextLoader)
    except FileNotFoundError:
        shipped = ", ".join(dataset_names())
        raise DataError(
            f"data: there is no dataset {path}, and none of that name is shipped (shipped: {shipped})", hint=EXAMPLE
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data: {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise DataError(f"data: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"data: {path} holds no keys; path, train, val and names are needed", hint=EXAMPLE)
    return {key: value for key, value in content.items() if value not in ABSENT}


def _root(source: Path, written: object) -> Path:
    if not written:
        return source.parent
    beside = source.parent / str(written)
    return beside if beside.exists() else Path(str(written)).absolute()


def _split_paths(source: Path, name: str, root: Path, content: dict[str, Any]) -> tuple[Path, ...]:
    written = content.get(name)
    if not written:
        return ()
    entries = written if isinstance(written, list) else [written]
    paths = tuple(_split_path(root, str(entry)) for entry in entries)
    for path in paths:
        if not path.exists():
            hint = EXAMPLE
            if shipped_dataset(source.name) == source and source.stem != "shapes":
                hint = f"put the dataset at {root}, or copy {source}, set path: in the copy and use the copy"
            elif "download" in content:
                hint = f"{source} says how its author fetches it (download:), which is never run here; fetch it by hand"
            raise DataError(f"{source}: {name}: {path} is not there", hint=hint)
    return paths


def _split_path(root: Path, entry: str) -> Path:
    path = root / entry
    inside = root / entry.removeprefix("../")  # exported YAMLs often lie one folder higher than they say
    return inside if inside.exists() and not path.exists() else path


def _contradictions(source: Path, written: object, num_names: int) -> tuple[str, ...]:
    if written is None or str(written) == str(num_names):
        return ()
    return (f"{source}: nc: {written} is not the number of names, {num_names}; the names count",)


def _names(source: Path, written: object) -> tuple[str, ...]:
    if isinstance(written, list):
        return tuple(map(str, written))
    if isinstance(written, dict) and set(written) == set(map(str, range(len(written)))):
        return tuple(str(written[str(index)]) for index in range(len(written)))
    raise DataError(
        f"{source}: names: {written!r} is neither a list of names nor numbers 0, 1, 2 … with names", hint=EXAMPLE
    )


def _listed_images(source: Path) -> list[Path]:
    """The lines of a list; those that are relative start at the list's folder, or else at the working directory."""
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} is not a list of pictures: {error}") from error
    written = [Path(line.strip()) for line in lines if line.strip()]
    return [
        path if path.is_absolute() or not (source.parent / path).exists() else source.parent / path for path in written
    ]
