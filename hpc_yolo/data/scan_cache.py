"""Files of an index, of arrays and JSON, never a pickle: the cache of a scan, beside the labels, and a run's images."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpc_yolo.core.files import exclusive_lock, write_atomic
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.labels import Findings, ImageIndex
from hpc_yolo.data.polygons import Outlines


def cached(caches: list[Path], key: str, scan: Callable[[], ImageIndex]) -> ImageIndex:
    """Return the cached index, or else scan and write the first of `caches` that can be locked and written."""
    index = None
    for cache in caches:
        with contextlib.suppress(OSError), exclusive_lock(cache.with_suffix(".lock")):
            if index is None and (found := _read_caches(caches, key)):
                return found
            index = index or scan()
            write_atomic(cache, _pack(index, key), mode=0o644)
            return index
    return index or _read_caches(caches, key) or scan()


def write_index(path: Path, index: ImageIndex) -> None:
    """Write `index` with its digest to `path`, without its messages.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, _pack(index, index.digest))


def read_index(path: Path) -> ImageIndex | None:
    """Return the index that `write_index` wrote; None where there is none, or the file is damaged."""
    return _read_cache(path, None)


def has_index(path: Path, digest: str) -> bool:
    """Return True if the file `path` has an index with this digest; its arrays are not read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return bool(_header(arrays)["key"] == digest)
    except Exception:  # as in _read_cache
        return False


def _pack(index: ImageIndex, key: str) -> bytes:
    header = {
        "key": key,
        "num_backgrounds": index.num_backgrounds,
        "num_corrupt": index.num_corrupt,
        "findings": index.findings.as_json(),
    }
    packed = io.BytesIO()
    np.savez(
        packed,
        allow_pickle=False,
        header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        shapes_hw=index.shapes_hw,
        paths=index.paths.characters,
        path_bounds=index.paths.bounds,
        labels=index.labels.rows,
        label_bounds=index.labels.bounds,
        crowds=index.crowds,
        points=index.outlines.points,
        point_counts=index.outlines.counts,
    )
    return packed.getvalue()


def _read_caches(caches: list[Path], key: str) -> ImageIndex | None:
    return next((found for cache in caches if (found := _read_cache(cache, key))), None)


def _read_cache(path: Path, key: str | None) -> ImageIndex | None:
    """Return the index with this key, or with any; None where there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = _header(arrays)
            if key not in (header["key"], None):
                return None
            return ImageIndex(
                paths=FlatPaths(arrays["paths"], arrays["path_bounds"]),
                shapes_hw=arrays["shapes_hw"],
                labels=FlatLabels(arrays["labels"], arrays["label_bounds"]),
                num_backgrounds=header["num_backgrounds"],
                num_corrupt=header["num_corrupt"],
                messages=(),
                digest=header["key"],
                outlines=Outlines(arrays["points"], arrays["point_counts"]),
                crowds=arrays["crowds"],
                findings=Findings.from_json(header["findings"]),
            )
    except Exception:  # zip, zlib, numpy and json have different ones; after any error a scan replaces the cache
        return None


def _header(arrays: Any) -> dict[str, Any]:
    """Return the JSON of an opened file."""
    header: dict[str, Any] = json.loads(arrays["header"].tobytes())
    return header
