"""Whole models pickled by torch (`.pt` files of YOLOv5), read without executing their content.

A pickle is a program; `machine` interprets it, and `archive` reads the file around it. This module reads the tensors
and the architecture. Memory stays within a few times the file's size. Source of the format: files written by YOLOv5 v6
and v7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.weights.archive import MAX_MODULE_NAME, TorchArchive, described_model, open_archive
from hpc_yolo.weights.machine import ACTIVATIONS, UNBUILDABLE, Record, Storage, Tensor

MAX_MODULES = 10_000
MAX_DEPTH = 32
MAX_PLAIN_VALUES = 100_000
MAX_EXPANSION = 4  # bytes of tensors over bytes of the file; 16-bit numbers become 32-bit ones
MAX_PIXELS = 2**16

DTYPES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class PickledModel:
    """The content of a file. `tensors` are fp32 under their names, counters int64."""

    tensors: dict[str, torch.Tensor]
    architecture: dict[str, Any]
    names: dict[int, str]
    imgsz: int | None


def read_pickled_model(path: Path) -> PickledModel:
    """Return the model in a `.pt` file; of a training state the averaged one.

    Raises:
        CheckpointError: it is not such a file, is damaged, holds an object that such files do not need, or a model that
            this version cannot build; the message names it.
    """
    with open_archive(path) as archive:
        found, options = described_model(archive)
        return _model(found, options, archive)


def _model(found: Record, options: object, archive: TorchArchive) -> PickledModel:
    path = archive.path
    state = found.state
    modules = dict(_modules(found, path))
    architecture = _plain(state.get("yaml"))
    for module in modules.values():
        if module.kind in UNBUILDABLE or module.kind in ACTIVATIONS - {_activation(architecture)}:
            raise CheckpointError(f"{path}: its model has a {module.kind}, which this version does not build")
    named = [item for item in _named_tensors(modules) if not item[0].endswith("anchor_grid")]  # in files before v6
    claimed_bytes = sum(math.prod(tensor.size) * 4 for _, tensor in named)
    if claimed_bytes > path.stat().st_size * MAX_EXPANSION:
        raise CheckpointError(f"{path}: its tensors claim {claimed_bytes} bytes, many times the file's")
    storages: dict[Storage, torch.Tensor] = {}
    tensors = {name: _tensor(value, storages, archive) for name, value in named}
    return PickledModel(tensors, architecture, _class_names(state), _imgsz(options))


def _modules(root: Record, path: Path) -> list[tuple[str, Record]]:
    """Return all modules below `root` by dotted name, itself first, parents before children."""
    found: list[tuple[str, Record]] = []

    def visit(prefix: str, module: Record, depth: int) -> None:
        if depth > MAX_DEPTH or len(found) > MAX_MODULES:
            raise CheckpointError(f"{path}: its modules are nested too deeply, or too many")
        found.append((prefix, module))
        for name, child in _section(module, "_modules"):
            if isinstance(child, Record):
                visit(f"{prefix}.{name}".lstrip("."), child, depth + 1)

    visit("", root, 0)
    return found


def _named_tensors(modules: dict[str, Record]) -> list[tuple[str, Tensor]]:
    return [
        (f"{prefix}.{name}".lstrip("."), value)
        for prefix, module in modules.items()
        for section in ("_parameters", "_buffers")
        for name, value in _section(module, section)
        if isinstance(value, Tensor)
    ]


def _section(module: Record, name: str) -> list[tuple[str, Any]]:
    section = module.state.get(name)
    if not isinstance(section, dict):
        return []
    if any(len(str(key)) > MAX_MODULE_NAME for key in section):
        raise ValueError(f"a name of more than {MAX_MODULE_NAME} characters in {name}")
    return [(str(key), value) for key, value in section.items()]


def _tensor(tensor: Tensor, storages: dict[Storage, torch.Tensor], archive: TorchArchive) -> torch.Tensor:
    storage, path = tensor.storage, archive.path
    if storage not in storages:
        storages[storage] = _read_storage(storage, archive)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if math.prod(tensor.size) and last >= storage.num_elements:
        raise CheckpointError(f"{path}: a tensor of {tensor.size} reaches beyond its {storage.num_elements} numbers")
    view = storages[storage].as_strided(tensor.size, tensor.stride, tensor.offset).clone()
    return view.float() if view.is_floating_point() else view


def _read_storage(storage: Storage, archive: TorchArchive) -> torch.Tensor:
    dtype, path = DTYPES[storage.kind], archive.path
    try:
        content = archive.read(f"data/{storage.key}")
    except KeyError:
        raise CheckpointError(f"{path}: the numbers of a tensor (data/{storage.key}) are missing") from None
    if len(content) != storage.num_elements * dtype.itemsize:
        raise CheckpointError(
            f"{path}: data/{storage.key} has {len(content)} bytes for {storage.num_elements} numbers of {dtype}"
        )
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _plain(value: Any) -> Any:
    """Return `value` if it consists of plain data only, as in a file of layers."""
    num_values = 0

    def copied(item: Any) -> Any:
        nonlocal num_values
        num_values += 1
        if num_values > MAX_PLAIN_VALUES:
            raise ValueError("the description of the model has too many values")
        if isinstance(item, dict):
            return {str(copied(key)): copied(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return [copied(inner) for inner in item]
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        raise ValueError(f"the description of the model holds a {type(item).__name__}")

    return copied(value)


def _class_names(state: dict[str, Any]) -> dict[int, str]:
    names = _plain(state.get("names"))
    if isinstance(names, dict):
        return {int(index): str(name) for index, name in names.items()}
    return dict(enumerate(map(str, names or ())))


def _imgsz(options: object) -> int | None:
    imgsz = options.get("imgsz") if isinstance(options, dict) else None
    return imgsz if type(imgsz) is int and 0 < imgsz <= MAX_PIXELS else None


def _activation(architecture: object) -> str:
    """Return the class of the activations of a model with these layers."""
    written = architecture.get("activation") if isinstance(architecture, dict) else None
    name = str(written or "SiLU").removeprefix("torch.").removeprefix("nn.").partition("(")[0]
    return f"torch.nn.modules.activation.{name}"
