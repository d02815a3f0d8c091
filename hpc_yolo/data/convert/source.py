"""The dataset that a user names: a dataset YAML, a COCO file, or a directory in VOC's format or of XML files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.package_data import shipped_dataset
from hpc_yolo.data.dataset import SPLITS, Dataset, InlineDataset, load_dataset
from hpc_yolo.data.files import exists
from hpc_yolo.data.voc_files import LISTS, XML

SPLIT_WORDS = {
    "test": frozenset({"test", "testset", "testing", "testdev"}),
    "val": frozenset(
        {"val", "valset", "valid", "validate", "validation", "validationset", "minival", "eval", "evaluation"}
    ),
}
HINT = "a dataset YAML, a COCO JSON, or a directory with ImageSets/Main or with XML files"


def find_dataset(path: Path, images: Path | None = None) -> Dataset:
    """Return the dataset at `path`.

    Args:
        images: directory of the images of a COCO file or of VOC's format; None for the usual ones.

    Raises:
        DataError: there is none, or it cannot be used.
    """
    content = _content(path)
    if content is None:
        if images is not None:
            raise DataError(f"{path}: is a dataset YAML, which itself names its images", hint="leave the option out")
        shipped = None if path.exists() else shipped_dataset(str(path))
        return load_dataset(shipped or path, needed_splits=())
    if images is not None:
        content["images"] = str(images.absolute())
    inline = InlineDataset(str(path), {"path": str(path.absolute().parent), **content})
    return load_dataset(inline, needed_splits=())


def _content(path: Path) -> dict[str, Any] | None:
    """Return what a dataset YAML for `path` would have; None if it is one itself.

    Raises:
        DataError: it is nothing that can be read.
    """
    if path.suffix.lower() == ".json":
        if not exists(path):
            raise DataError(f"{path}: there is no such file", hint=HINT)
        return {"format": "coco", _split_of(path.stem): str(path.absolute())}
    if not path.is_dir():
        return None
    lists = path / LISTS / "Main"
    if lists.is_dir():
        found = {name: str((lists / f"{name}.txt").absolute()) for name in SPLITS if (lists / f"{name}.txt").is_file()}
        if not found and (lists / "trainval.txt").is_file():
            found = {SPLITS[0]: str((lists / "trainval.txt").absolute())}
        if not found:
            raise DataError(f"{lists}: has neither train.txt, val.txt, test.txt nor trainval.txt", hint=HINT)
        return {"format": "voc", "path": str(path.absolute()), **found}
    if any(path.rglob(f"*{XML}")):
        return {"format": "voc", SPLITS[0]: str(path.absolute())}
    for name in ("dataset.yaml", "data.yaml"):
        if (path / name).is_file():
            raise DataError(f"{path}: is a directory", hint=f"name its dataset YAML: {path / name}")
    raise DataError(f"{path}: is a directory without annotations that can be read", hint=HINT)


def _split_of(stem: str) -> str:
    """Return the split that a word in the name of a COCO file stands for: val of instances_val2017; else train."""
    words = set(re.split(r"[\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower()))
    return next((split for split, meant in SPLIT_WORDS.items() if words & meant), SPLITS[0])
