"""What an earlier scan of the same files found, in a file beside the labels: arrays and JSON, never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpc_yolo.core.files import exclusive_lock, write_atomic
from hpc_yolo.data.label_files import label_path
from hpc_yolo.data.labels import Findings, ImageIndex
from hpc_yolo.data.polygons import Outlines


def cached(caches: list[Path], key: str, scan: Callable[[], ImageIndex]) -> ImageIndex:
    """Return what one of the caches holds, or else a scan, left in the first of them that can be locked and written."""
    index = None
    for cache in caches:
        with contextlib.suppress(OSError), exclusive_lock(cache.with_suffix(".lock")):
            if index is None and (found := _read_caches(caches, key)):
                return found
            index = index or scan()
            write_atomic(cache, _pack(index, key), mode=0o644)
            return index
    return index or _read_caches(caches, key) or scan()


def cache_path(split: tuple[Path, ...], first_image: Path) -> Path:
    """Return where the cache of a split is, beside the labels of its first image."""
    directory = label_path(first_image).parent
    name = split[0].stem if split[0].is_file() else directory.name
    if len(split) > 1:  # a split that has the first part alone has a cache of its own
        name += "-" + hashlib.sha256(os.fsencode("\n".join(map(str, split)))).hexdigest()[:8]
    return directory.parent / f".{name}.hpc-yolo.npz"


def _pack(index: ImageIndex, key: str) -> bytes:
    header = {
        "key": key,
        "paths": index.paths,
        "num_backgrounds": index.num_backgrounds,
        "num_corrupt": index.num_corrupt,
        "findings": index.findings.as_json(),
    }
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        allow_pickle=False,
        header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        shapes_hw=index.shapes_hw,
        counts=np.array([len(rows) for rows in index.labels], dtype=np.int64),
        labels=np.concatenate([np.zeros((0, 5), dtype=np.float32), *index.labels]),
        points=index.outlines.points,
        point_counts=index.outlines.counts,
    )
    return packed.getvalue()


def _read_caches(caches: list[Path], key: str) -> ImageIndex | None:
    return next((found for cache in caches if (found := _read_cache(cache, key))), None)


def _read_cache(path: Path, key: str) -> ImageIndex | None:
    """Return what an earlier scan of the same files left; None where there is nothing, or nothing to be trusted."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["key"] != key:
                return None
            ends = arrays["counts"].cumsum()[:-1]
            return ImageIndex(
                paths=tuple(header["paths"]),
                shapes_hw=arrays["shapes_hw"],
                labels=tuple(np.split(arrays["labels"], ends)) if header["paths"] else (),
                num_backgrounds=header["num_backgrounds"],
                num_corrupt=header["num_corrupt"],
                messages=(),
                outlines=Outlines(arrays["points"], arrays["point_counts"]),
                findings=Findings.from_json(header["findings"]),
            )
    except Exception:  # zip, zlib, numpy and json each have their own; whatever is wrong, a scan makes a new one
        return None
