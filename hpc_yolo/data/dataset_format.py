"""The keys of a dataset YAML that belong to its format, and the names of classes that are read from the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.coco_json import annotation_file, coco_names_in
from hpc_yolo.data.files import exists

YOLO, COCO, VOC = "yolo", "coco", "voc"
FORMATS = (YOLO, COCO, VOC)
SPLITS = ("train", "val", "test")
# Keys of one format or two, which mean nothing in the others.
FORMATS_OF_KEY = {"images": (COCO, VOC), "annotations": (VOC,), "difficult": (VOC,)}
KEEP, DROP = "keep", "drop"


def read_format(source: Path, content: Mapping[str, Any]) -> str:
    """Return the format of the labels; `yolo` where none is written.

    Raises:
        DataError: there is no such format, or a key is for another one.
    """
    written = str(content.get("format", YOLO)).lower()
    if written not in FORMATS:
        raise DataError(f"{source}: format: {content['format']!r} is not one of {', '.join(FORMATS)}")
    for key, formats in FORMATS_OF_KEY.items():
        if key in content and written not in formats:
            raise DataError(
                f"{source}: {key}: is a key of format: {' and '.join(formats)}, and the format is {written}",
                hint=f"write format: {formats[0]}, or leave {key}: out; in the YOLO layout the splits name the images",
            )
    return written


def read_image_directories(source: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """Return the directory of the images of each split as it is written, of those that have one.

    Raises:
        DataError: `images` is neither a directory nor one for each split.
    """
    written = content.get("images")
    if written is None:
        return {}
    by_split = written if isinstance(written, dict) else dict.fromkeys(SPLITS, written)
    if not set(by_split) <= set(SPLITS) or not all(isinstance(path, str) and path for path in by_split.values()):
        raise DataError(
            f"{source}: images: {written!r} is not a directory",
            hint="a directory, or one for each split: images: {train: DIR, val: DIR}",
        )
    return {str(split): str(path) for split, path in by_split.items()}


def drops_difficult(source: Path, content: Mapping[str, Any]) -> bool:
    """Return whether objects that are marked as difficult are left out.

    Raises:
        DataError: `difficult` is neither keep nor drop.
    """
    written = content.get("difficult", KEEP)
    if written not in (KEEP, DROP):
        raise DataError(f"{source}: difficult: {written!r} is neither {KEEP} nor {DROP}")
    return bool(written == DROP)


def names_in_labels(
    source: Path, kind: str, root: Path, splits: Mapping[str, Sequence[Path]], annotations: Path | None
) -> tuple[str, ...]:
    """Return the names of classes that the label files of the first split have which exists here.

    Args:
        source: the dataset YAML.
        kind: format of the labels.
        root: of the dataset.
        splits: the files of each split.
        annotations: directory of VOC's XML files; None for the usual one.

    Raises:
        DataError: none exists here, or a file is invalid.
    """
    here = next((files for files in map(splits.get, SPLITS) if files and all(map(exists, files))), None)
    if here is None:
        written = next((files[0] for files in map(splits.get, SPLITS) if files), None)
        seen = "no file of a split is here from which the classes could be read"
        if written is not None:
            seen = f"the classes cannot be read from {written}, which does not exist here"
        order = "the categories' ids" if kind == COCO else "the classes"
        raise DataError(
            f"{source}: names: is missing, and {seen}",
            hint=f"write names: [first, second, …] in the order of {order}",
        )
    if kind == COCO:
        return coco_names_in([annotation_file(file) for file in here])

    from hpc_yolo.data.voc_files import listed_files, voc_names_in  # XML and threads: 30 ms, of no use to others

    return voc_names_in([file for one in here for file in listed_files(one, root, annotations)])
