"""The size of the images of a dataset, if that takes but a moment, for a dry run. Needs no NumPy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.archives.archive import SUFFIXES, archive_on
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.dataset_format import YOLO
from hpc_yolo.data.image_suffixes import DATASET_SUFFIXES
from hpc_yolo.data.pack.layout import is_index, shards_of

TIMEOUT_S = 0.5


def quick_size_bytes(dataset: Dataset, timeout_s: float = TIMEOUT_S) -> int | None:
    """Return the size of the training and validation images; None if it takes too long, or splits are lists."""
    if dataset.format != YOLO and not dataset.images:
        return None
    deadline_s = time.monotonic() + timeout_s
    total_bytes = 0
    try:
        is_beside = dataset.format == YOLO  # images are where the splits are
        sources = (*dataset.train, *dataset.val) if is_beside else dataset.images.values()
        for source in {archive_on(source) or source for source in sources}:
            for size_bytes in _sizes(source):
                total_bytes += size_bytes
                if time.monotonic() > deadline_s:
                    return None
    except (OSError, DataError):
        return None
    return total_bytes


def _sizes(source: Path) -> Iterator[int]:
    """Yield the sizes of the files of a split."""
    if is_index(source):
        yield from (file.size for _, file in shards_of(source))
    elif source.suffix.lower() in SUFFIXES and source.is_file():
        yield source.stat().st_size
    else:
        yield from _image_sizes(str(source))


def _image_sizes(directory: str) -> Iterator[int]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _image_sizes(entry.path)
            elif Path(entry.name).suffix.lower() in DATASET_SUFFIXES:
                yield entry.stat().st_size
