"""The dataset YAML: the images of each split and the names of the classes.

Needs neither torch nor OpenCV, so that a login node can check it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.package_data import dataset_names, shipped_dataset
from hpc_yolo.data.archives.archive import archive_on
from hpc_yolo.data.dataset_format import SPLITS as SPLITS
from hpc_yolo.data.dataset_format import YOLO, drops_difficult, names_in_labels, read_format, read_image_directories
from hpc_yolo.data.dataset_paths import (
    DATASET_FILE,
    copied_root,
    dataset_file,
    differs_between_nodes,
    entries_of,
    path_here,
)
from hpc_yolo.data.dataset_task import read_kpt_shape, task_messages
from hpc_yolo.data.files import exists, is_dir, read_bytes
from hpc_yolo.data.pack.layout import UNFINISHED

ABSENT = ("", "null", "~")
EXAMPLE = "see configs/data/shapes.yaml for the form, or draw a set with: hpc-yolo data synth datasets/shapes"


class _TextLoader(yaml.BaseLoader):
    """YAML loader that keeps every value as text (a class named no is not False) and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(problem="a key is written twice", problem_mark=node.start_mark)
        return mapping


@dataclass(frozen=True)
class Dataset:
    """A dataset's splits and the names of its classes.

    A split is one or more directories or lists of images, or files of annotations, as the format has it.

    Attributes:
        root: directory to which paths of splits, and perhaps of lists, are relative.
        file_names: names of the classes in the label files; with `single_cls` they are merged into one.
        kpt_shape: (keypoints, numbers of each) that follow the box in each line of the label files.
        messages: findings to be reported, a sentence each.
        is_on_nodes: each node may have a copy of its own.
        format: of the labels, one of `dataset_format.FORMATS`.
        images: directory of the images of a split, of those for which one is written.
        annotations: directory of the XML files of VOC's format, where one is written.
        drops_difficult: leave out objects that VOC's XML marks as difficult.
    """

    source: Path
    root: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    names: tuple[str, ...]
    file_names: tuple[str, ...]
    single_cls: bool = False
    kpt_shape: tuple[int, int] | None = None
    messages: tuple[str, ...] = ()
    is_on_nodes: bool = False
    format: str = YOLO
    images: Mapping[str, Path] = field(default_factory=dict)
    annotations: Path | None = None
    drops_difficult: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes that a model learns."""
        return len(self.names)

    @property
    def num_file_classes(self) -> int:
        """Number of classes in the label files."""
        return len(self.file_names)

    def split(self, name: str) -> tuple[Path, ...]:
        """Return the directories, lists or files of the split `name`: train, val or test."""
        sources: tuple[Path, ...] = getattr(self, name)
        return sources


class InlineDataset(NamedTuple):
    """A dataset that has no dataset YAML: what that would have in it, with an absolute `path`.

    Attributes:
        name: for messages.
    """

    name: str
    content: dict[str, Any]


def load_dataset(
    source: Path | InlineDataset, *, single_cls: bool = False, needed_splits: Collection[str] = ("train", "val")
) -> Dataset:
    """Read a dataset YAML, or dataset.yaml in that directory, and check that the needed splits exist.

    `path:` inside it is relative to the YAML's own directory or, if there is no such directory, to the working
    directory; splits are relative to it, and `../` before one that does not exist is left out, as some exports need.
    Variables in paths, `path` itself included, have their values on this machine. The number of classes is that of the
    names. `download:` is never run.

    Args:
        source: the YAML, or what it would have in it.
        single_cls: merge all classes into one, called item, or by its name if there is only one.
        needed_splits: those that will be read; problems of others become messages.

    Raises:
        DataError: naming file and key.
    """
    written, path, content = _read(source)
    _require_keys(path, content, needed_splits)
    root = _root(path, content.get("path"))
    splits, messages = _splits(path, root, content, needed_splits)
    names = _names_of(path, content, root, splits)
    kpt_shape = read_kpt_shape(path, content)
    return Dataset(
        source=path,
        root=root,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        names=("item",) if single_cls and len(names) > 1 else names,
        file_names=names,
        single_cls=single_cls,
        kpt_shape=kpt_shape,
        messages=(*_contradictions(path, content.get("nc"), len(names)), *task_messages(path, content), *messages),
        is_on_nodes=any(map(differs_between_nodes, (written, *paths_in(content)))),
        format=read_format(path, content),
        images=_image_directories(path, root, content),
        annotations=_annotation_directory(path, root, content),
        drops_difficult=drops_difficult(path, content),
    )


def dataset_content(source: Path | InlineDataset) -> dict[str, Any]:
    """Return the content of a dataset YAML, valid in any directory: absolute paths, names as a list.

    `source` may be the directory of dataset.yaml.

    Paths that may differ between nodes are kept as they are written, and so are splits that are relative to one.

    Raises:
        DataError: naming file and key.
    """
    written, path, content = _read(source)
    _require_keys(path, content, ())
    splits = {name: [_require_path(path, name, entry) for entry in entries_of(content.get(name))] for name in SPLITS}
    images = read_image_directories(path, content)
    if differs_between_nodes(content.get("path", "")):
        root = str(content["path"])
    else:
        here = _root(path, content.get("path"))
        root = copied_root(written, path, here)
        is_relative = root != str(here)
        splits = {
            name: [_copied_entry(here, entry, is_relative=is_relative) for entry in entries]
            for name, entries in splits.items()
        }
        images = {name: _copied_entry(here, entry, is_relative=is_relative) for name, entry in images.items()}
    kept: dict[str, Any] = {name: entries for name, entries in splits.items() if entries}
    if images:
        kept["images"] = images
    if "annotations" in content and not differs_between_nodes(content.get("path", "")):
        written_path = _require_path(path, "annotations", content["annotations"])
        kept["annotations"] = _copied_entry(here, written_path, is_relative=is_relative)
    return {**content, "path": root, **kept, "names": list(_names_of(path, content))}


def _copied_entry(root: Path, entry: str, *, is_relative: bool) -> str:
    """Return the path `entry` of a split below `root`: absolute, or relative to `root` where it is below that."""
    if differs_between_nodes(entry):
        return entry
    path = _split_path(root, entry)
    return str(path.relative_to(root) if is_relative and path.is_relative_to(root) else path)


def paths_in(content: dict[str, Any]) -> list[str]:
    """Return the paths in the content of a dataset YAML, as they are written: its root, of its splits and images."""
    images = content.get("images")
    written = [
        *map(content.get, (*SPLITS, "annotations")),
        *(images.values() if isinstance(images, dict) else [images]),
    ]
    entries = [entry for one in written for entry in entries_of(one)]
    return [str(path) for path in (content.get("path"), *entries) if path]


def _read(source: Path | InlineDataset) -> tuple[Path, Path, dict[str, Any]]:
    """Return (the YAML as it is written, its path here, its content)."""
    if isinstance(source, InlineDataset):
        return Path(source.name), Path(source.name), dict(source.content)
    written = dataset_file(source)
    path = path_here(written)
    return written, path, _read_yaml(path)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(read_bytes(path).decode("utf-8-sig"), Loader=_TextLoader)
    except FileNotFoundError:
        shipped = ", ".join(dataset_names())
        raise DataError(
            f"data: there is no dataset {path}, and none of that name is shipped (shipped: {shipped})", hint=EXAMPLE
        ) from None
    except IsADirectoryError:
        raise _no_dataset_in(path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data: {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise DataError(f"data: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"data: {path} holds no keys; path, train, val and names are needed", hint=EXAMPLE)
    return {key: value for key, value in content.items() if value not in ABSENT}


def _no_dataset_in(directory: Path) -> DataError:
    if (directory / UNFINISHED).is_dir():
        return DataError(
            f"data: {directory} is a packed set that is not complete: packing was interrupted",
            hint="the same `hpc-yolo data pack` command again completes it",
        )
    return DataError(f"data: {directory} has no {DATASET_FILE}", hint="name the dataset YAML itself, or a packed set")


def _require_keys(source: Path, content: dict[str, Any], needed_splits: Collection[str]) -> None:
    if not content.get("names") and read_format(source, content) == YOLO:
        raise DataError(f"{source}: names: is missing", hint=EXAMPLE)
    for name in needed_splits:
        if not content.get(name):
            raise DataError(f"{source}: {name}: is missing; there is no split {name}", hint=EXAMPLE)


def _root(source: Path, written: object) -> Path:
    if not written:
        return source.parent
    root = path_here(str(written))
    beside = source.parent / root
    if (archive := archive_on(source)) is not None:
        # Nothing outside of an archive is read; a root on the machine where it was made is the directory of its YAML.
        is_inside = archive_on(beside.absolute()) == archive.absolute() and is_dir(beside)
        return beside if is_inside else source.parent
    return beside if exists(beside) else root.absolute()


def _splits(
    source: Path, root: Path, content: dict[str, Any], needed: Collection[str]
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Return (the sources of each split, messages on splits that are not needed)."""
    splits, messages = {}, []
    for name in SPLITS:
        splits[name] = _split_paths(source, name, root, content.get(name))
        for path in splits[name]:
            if not exists(path) and name in needed:
                raise DataError(f"{source}: {name}: {path} does not exist", hint=_missing_hint(source, root, content))
        missing = [path for path in splits[name] if not exists(path)]
        if missing:
            splits[name] = ()
            messages.append(f"{source}: {name}: {missing[0]} does not exist; nothing is read from this split now")
    return splits, messages


def _split_paths(source: Path, name: str, root: Path, written: object) -> tuple[Path, ...]:
    return tuple(_split_path(root, _require_path(source, name, entry)) for entry in entries_of(written))


def _require_path(source: Path, name: str, entry: object) -> str:
    if not isinstance(entry, str) or entry in ABSENT:
        raise DataError(f"{source}: {name}: {entry!r} is not a path", hint=f"a path, or several: {name}: [a, b]")
    return entry


def _missing_hint(source: Path, root: Path, content: dict[str, Any]) -> str:
    if shipped_dataset(source.name) == source and source.stem != "shapes":
        return f"put the dataset at {root}, or copy {source}, set path: in the copy and use the copy"
    if "download" in content:
        return f"{source} has a download: entry, which is never run here; download the dataset yourself"
    return EXAMPLE


def _split_path(root: Path, entry: str) -> Path:
    forms = dict.fromkeys([entry, entry.replace("\\", "/")])
    # Paths in exported YAMLs are often relative to a subdirectory of the YAML's own directory.
    forms |= dict.fromkeys(form.removeprefix("../") for form in tuple(forms))
    found = next((path for path in (root / form for form in forms) if exists(path)), None)
    return root / path_here(entry) if found is None else found


def _contradictions(source: Path, written: object, num_names: int) -> tuple[str, ...]:
    if written is None or str(written) == str(num_names):
        return ()
    return (f"{source}: nc: {written} is not the number of names, {num_names}; the names are used",)


def _image_directories(source: Path, root: Path, content: Mapping[str, Any]) -> dict[str, Path]:
    return {name: _split_path(root, entry) for name, entry in read_image_directories(source, content).items()}


def _annotation_directory(source: Path, root: Path, content: Mapping[str, Any]) -> Path | None:
    """Return the directory of VOC's XML files; None where none is written.

    Raises:
        DataError: it does not exist.
    """
    if "annotations" not in content:
        return None
    directory = _split_path(root, _require_path(source, "annotations", content["annotations"]))
    if not is_dir(directory):
        raise DataError(f"{source}: annotations: {directory} is not a directory")
    return directory


def _names_of(
    source: Path,
    content: Mapping[str, Any],
    root: Path | None = None,
    splits: Mapping[str, tuple[Path, ...]] | None = None,
) -> tuple[str, ...]:
    """Return the names that the YAML has, or those in the files of its splits; both are found where not given."""
    if content.get("names"):
        return _names(source, content["names"])
    if root is None or splits is None:
        root = _root(source, content.get("path"))
        splits = {name: _split_paths(source, name, root, content.get(name)) for name in SPLITS}
    annotations = _annotation_directory(source, root, content)
    return names_in_labels(source, read_format(source, content), root, splits, annotations)


def _names(source: Path, written: object) -> tuple[str, ...]:
    if isinstance(written, list):
        return tuple(map(str, written))
    if isinstance(written, dict) and set(written) == set(map(str, range(len(written)))):
        return tuple(str(written[str(index)]) for index in range(len(written)))
    raise DataError(
        f"{source}: names: {written!r} is neither a list of names nor numbers 0, 1, 2 … with names", hint=EXAMPLE
    )
