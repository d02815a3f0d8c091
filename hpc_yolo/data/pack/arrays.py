"""A file of named arrays in the layout of safetensors, mapped into memory instead of read.

Any process of a node that maps it uses the same pages. Writing has the same bytes for the same arrays.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

Array = npt.NDArray[Any]

DTYPES = {"U8": np.uint8, "U32": np.uint32, "I32": np.int32, "I64": np.int64, "F32": np.float32}
LENGTH_BYTES = 8
META = "hpc_yolo"  # one key of metadata, since their order in the file is not fixed


def arrays_content(arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file of `arrays` and the values `meta`, which JSON supports."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(contiguous, metadata={META: json.dumps(meta, sort_keys=True, separators=(",", ":"))})


def map_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and values of the file at `path`; the arrays are read-only.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged; the message says how.
    """
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ValueError("it is empty") from None
    header_end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    if header_end > len(content):
        raise ValueError("it is cut off, or no index")
    try:
        header = json.loads(content[LENGTH_BYTES:header_end])
        meta = json.loads(header.pop("__metadata__")[META])
        arrays = {name: _array(content, header_end, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is invalid, or its end is missing ({error})") from None
    return arrays, meta


def _array(content: mmap.mmap, start: int, entry: dict[str, Any]) -> Array:
    dtype = np.dtype(DTYPES[entry["dtype"]])
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(content) - start or (last - first) % dtype.itemsize:
        raise ValueError("an array exceeds the file")
    array = np.frombuffer(content, dtype, (last - first) // dtype.itemsize, start + first)
    shaped: Array = array.reshape(entry["shape"])
    return shaped
