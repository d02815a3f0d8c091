"""Conversions of small datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpc_yolo.data.convert.convert import convert
from hpc_yolo.data.convert.source import find_dataset
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.scan import scan_split


def indexes(dataset: Path) -> list[ImageIndex]:
    """Return scans of the splits train and val of a dataset YAML, of those that exist."""
    loaded = load_dataset(dataset, needed_splits=())
    return [scan_split(loaded, split) for split in ("train", "val") if loaded.split(split)]


def converted(source: Path, directory: Path, kind: str, **options: Any) -> Path:
    """Convert `source` to the format `kind` in `directory`, and return the new dataset YAML."""
    return Path(convert(find_dataset(source), directory, kind, **options).dataset)
