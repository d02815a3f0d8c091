"""The checkpoint file: tensors and a few texts, verified when read.

The layout is that of safetensors, so that others can read the tensors: 8 bytes with the length of a JSON header, the
header, then the tensors' bytes end to end. The header holds a CRC-32 of every tensor, and one of its own contents.
"""

from __future__ import annotations

import errno
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.files import atomic_writer

FORMAT = "hpc-yolo-4"
ALIGNMENT_BYTES = 8

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class UnknownFormat(Exception):
    """Cause of the error about a file that another version has written; the file may be intact."""


def write_file(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    texts: Mapping[str, str],
    before_publish: Callable[[], None] = lambda: None,
) -> int:
    """Write `tensors` (on the CPU) and `texts` as `path` in one atomic step; return the file's size in bytes.

    No copy of all tensors is made. Writing and checksums release the GIL. Before the file is renamed its header is
    read back, so that a published file is readable.

    Args:
        before_publish: called when everything is durable, before the rename; an error that it raises prevents it.

    Raises:
        OSError: the file cannot be written, or has other contents when read back; `path` is unchanged.
    """
    rows = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata, header, num_bytes = _header_of(rows, texts)

    def require_readable(temporary: Path) -> None:
        try:
            is_same = read_texts(temporary) == metadata
        except CheckpointError as error:
            raise OSError(errno.EIO, f"the written file cannot be read back: {error.message}") from error
        if not is_same:
            raise OSError(errno.EIO, "the written file has other contents when it is read back")

    with atomic_writer(path, check=require_readable, before_publish=before_publish) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for tensor in rows.values():
            file.write(_bytes_of(tensor))
    return 8 + len(header) + num_bytes


def _header_of(tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> tuple[dict[str, str], bytes, int]:
    """Return (texts with the checksums, the header that holds them, bytes of all tensors)."""
    table: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    sums = {name: zlib.crc32(_bytes_of(tensor)) for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, **texts, "crc32": json.dumps(sums)}
    metadata["digest"] = _digest(metadata, tensors)
    header = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":")).encode()
    return metadata, header + b" " * (-len(header) % ALIGNMENT_BYTES), offset


def read_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (tensors, texts) of `path`, after checking every byte.

    Raises:
        CheckpointError: the file is missing, torn, altered, or of another format.
    """
    texts = read_texts(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    try:
        sums = json.loads(texts["crc32"])
        is_whole = texts["digest"] == _digest(texts, tensors)
        altered = [name for name, tensor in tensors.items() if sums.get(name) != zlib.crc32(_bytes_of(tensor))]
    except (KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: is damaged: its header has no usable checksums") from error
    if altered or not is_whole:
        what = f"tensor {altered[0]}" if altered else "its header"
        raise CheckpointError(f"{path}: is damaged: {what} is not as it was written")
    return tensors, texts


def read_texts(path: Path) -> dict[str, str]:
    """Return the texts in the header of `path`; the tensors are not read.

    Raises:
        CheckpointError: the file is missing, torn, or of another format.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            texts: dict[str, str] = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    if "format" not in texts or not texts["format"].startswith("hpc-yolo"):
        raise CheckpointError(
            f"{path}: holds tensors of another program; its header does not describe their model",
            hint="name a .safetensors file that this project wrote, or a .pt file of YOLOv5",
        )
    if texts["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: was written by another version of hpc-yolo: its format is {texts['format']!r}, this one reads "
            f"{FORMAT!r}",
            hint="start again under another name, or continue with the version that wrote it",
        ) from UnknownFormat(texts["format"])
    return texts


def _digest(texts: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the CRC-32 of the header's contents: the texts, and name, type and shape of each tensor."""
    contents = sorted((name, text) for name, text in texts.items() if name != "digest")
    shapes = sorted((name, str(tensor.dtype), list(tensor.shape)) for name, tensor in tensors.items())
    return f"{zlib.crc32(json.dumps([contents, shapes]).encode()):08x}"


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
