"""The keys of a dataset YAML that are for its format: `format`, `images`, and names that are read from the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.coco_json import annotation_file, coco_names_in

YOLO, COCO = "yolo", "coco"
FORMATS = (YOLO, COCO)
SPLITS = ("train", "val", "test")
IMAGES_HINT = "a directory, or one for each split: images: {train: DIR, val: DIR}"


def read_format(source: Path, content: Mapping[str, Any]) -> str:
    """Return the format of the labels; `yolo` where none is written.

    Raises:
        DataError: there is no such format.
    """
    written = content.get("format", YOLO)
    if str(written).lower() not in FORMATS:
        raise DataError(f"{source}: format: {written!r} is not one of {', '.join(FORMATS)}")
    return str(written).lower()


def read_image_directories(source: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """Return the directory of the images of each split as it is written, of those that have one.

    Raises:
        DataError: `images` is neither a directory nor one for each split.
    """
    written = content.get("images")
    if written is None:
        return {}
    if read_format(source, content) == YOLO:
        raise DataError(
            f"{source}: images: is a key of format: coco, and format: is not written",
            hint="in the YOLO layout train, val and test are themselves the directories of images",
        )
    by_split = written if isinstance(written, dict) else dict.fromkeys(SPLITS, written)
    if not set(by_split) <= set(SPLITS) or not all(isinstance(path, str) and path for path in by_split.values()):
        raise DataError(f"{source}: images: {written!r} is not a directory", hint=IMAGES_HINT)
    return {str(split): str(path) for split, path in by_split.items()}


def names_in_labels(source: Path, splits: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    """Return the names of classes that the label files of the first split have which exists here.

    Args:
        source: the dataset YAML.
        splits: the files of each split.

    Raises:
        DataError: none exists here, or a file is invalid.
    """
    here = next((files for files in map(splits.get, SPLITS) if files and all(file.exists() for file in files)), None)
    if here is None:
        written = next((str(files[0]) for files in map(splits.get, SPLITS) if files), "nowhere")
        raise DataError(
            f"{source}: names: is missing, and the classes cannot be read from {written}, which does not exist here",
            hint="write names: [first, second, …] in the order of the categories' ids",
        )
    return coco_names_in([annotation_file(file) for file in here])
