"""The bytes of the index and the dataset YAML of a packed set, and digests of what is packed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import msgspec
import numpy as np
import yaml

from hpc_yolo.data.dataset import SPLITS, Dataset
from hpc_yolo.data.flat import FlatPaths
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.pack.arrays import Array, arrays_content
from hpc_yolo.data.pack.layout import VERSION, PackedFile, index_name
from hpc_yolo.data.pack.members import SplitSource, name_below
from hpc_yolo.data.pack.shard import Entry

HEADER = "# A packed set of images; see packed.json. The trainer takes this file, or its directory, as its dataset.\n"


class FinishedShard(msgspec.Struct, frozen=True):
    """A finished shard of an unfinished set."""

    file: PackedFile
    entries: list[Entry]


def same_as(dataset: Dataset, split: str) -> str:
    """Return the first split that has the same images as `split`; only that one is packed."""
    sources = {name: (dataset.split(name), dataset.images.get(name)) for name in SPLITS}
    return next(name for name in SPLITS if sources[name] == sources[split])


def index_content(dataset: Dataset, source: SplitSource, shards: list[tuple[str, FinishedShard]]) -> bytes:
    """Return the bytes of the index of a split that is in `shards`."""
    index = source.index
    entries = np.array([entry for _, shard in shards for entry in shard.entries], dtype=np.int64).reshape(-1, 5)
    counts = [len(shard.entries) for _, shard in shards]
    names = FlatPaths.of(source.names)
    encoded = list(map(os.fsencode, source.names))
    arrays: dict[str, Array] = {
        "names": names.characters,
        "name_bounds": names.bounds,
        "by_name": np.array(sorted(range(len(encoded)), key=encoded.__getitem__), dtype=np.int32),
        "shard": np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        "offset": entries[:, 0],
        "length": entries[:, 1],
        "crc32": entries[:, 2].astype(np.uint32),
        "shapes_hw": entries[:, 3:].astype(np.int32),
        "labels": index.labels.rows,
        "label_bounds": index.labels.bounds,
        "crowds": index.crowds,
        "points": index.outlines.points,
        "point_counts": index.outlines.counts,
    }
    findings = index.findings.as_json()
    directories = _directories(source, dataset.root)
    values = {
        "version": VERSION,
        "shards": [(name, shard.file.size) for name, shard in shards],
        "num_backgrounds": index.num_backgrounds,
        "num_corrupt": index.num_corrupt,
        "findings": {
            name: (found.total, [directories.sub("", text) for text in found.first]) for name, found in findings.items()
        },
    }
    return arrays_content(arrays, values)


def _directories(source: SplitSource, root: Path) -> re.Pattern[str]:
    """Return the pattern of the directories that findings do not name: those of the dataset, and those above them.

    What is left of a path is the same wherever the dataset is. Labels may be beside the directory of the images.
    """
    written = {source.base, str(root), os.path.abspath(root)}  # noqa: PTH100
    for path in source.index.paths:
        name = name_below(source.base, path)
        if path.endswith(f"/{name}"):
            written.add(path[: -len(name) - 1])  # as it is written: it may be relative, or have `..`
    found = {above for path in map(PurePath, written) for above in (path, *path.parents) if above.name}
    removed = {f"{above}/" for above in found if above.is_absolute() or above.is_relative_to(root)}
    longest_first = sorted(removed, key=lambda directory: (-len(directory), directory))
    start_of_path = r"(?<![^\s'\"(])"
    return re.compile(start_of_path + f"(?:{'|'.join(map(re.escape, longest_first))})")


def dataset_content(dataset: Dataset, indexes: Mapping[str, ImageIndex]) -> bytes:
    """Return the dataset YAML of a packed set."""
    values: dict[str, Any] = {split: index_name(same_as(dataset, split)) for split in indexes}
    values["names"] = list(dataset.file_names)
    if dataset.kpt_shape is not None:
        values["kpt_shape"] = list(dataset.kpt_shape)
    return (HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)).encode()


def content_digest(dataset: Dataset, sources: Mapping[str, SplitSource]) -> str:
    """Return a digest of all that determines the bytes of the set but the content of images: names, sizes, labels."""
    digest = hashlib.sha256(repr((VERSION, dataset.file_names, dataset.kpt_shape)).encode(errors="surrogateescape"))
    for split, source in sources.items():
        index = source.index
        digest.update(repr((split, source.options, source.names, source.lengths)).encode(errors="surrogateescape"))
        labels = index.labels
        for array in (
            index.shapes_hw,
            labels.rows,
            labels.bounds,
            index.outlines.points,
            index.outlines.counts,
            index.crowds,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
