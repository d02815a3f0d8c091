"""Training state in and out: one safetensors file, tensors with a JSON header, and never a pickle.

Tensors are named `model.<key>`, `ema.<key>`, `optimizer.<parameter>.<buffer>` and, between two optimiser steps,
`gradient.<parameter>`; the header holds a `Progress`.
`best` holds the averaged model alone, under plain keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch

from hpc_yolo.errors import CheckpointError
from hpc_yolo.fileio import atomic_writer

FORMAT = "hpc-yolo-2"


class Progress(msgspec.Struct, kw_only=True):
    """Where training stands, besides the tensors. Positions count global batches from the start of training."""

    num_images: int = 0  # of the training set: epochs have no meaning with another number
    step: int = 0
    finished_epochs: int = 0  # trained, logged and evaluated
    last_optimizer_step: int = -1
    ema_updates: int = 0
    best_fitness: float = -1.0
    best_epoch: int = -1
    epoch_items: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.0, 0.0])
    class_maps: list[float] = msgspec.field(default_factory=list)  # mAP50-95 of each class at the last evaluation
    scaler: dict[str, int | float] = msgspec.field(default_factory=dict)


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader needs to rebuild the network."""

    model: str
    config: dict[str, Any]  # the rows of the network, as `models.load_config` gives them
    names: list[str]
    imgsz: int


def save_training(
    path: Path,
    *,
    model: torch.nn.Module,
    ema: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    gradients: Mapping[str, torch.Tensor],
    progress: Progress,
    description: ModelDescription,
) -> int:
    """Write the complete training state over `path` in one atomic step; its size in bytes."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    tensors |= {f"gradient.{name}": value for name, value in gradients.items()}
    for index, buffers in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in buffers.items() if value is not None}
    return _write(path, tensors, description, progress)


def save_model(path: Path, model: torch.nn.Module, description: ModelDescription) -> int:
    """Write the weights of `model` alone; the file's size in bytes."""
    return _write(path, model.state_dict(), description, None)


def load_training(
    path: Path, *, model: torch.nn.Module, ema: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Fill `model` with its gradients, `ema` and `optimizer` from `path`; where training stands.

    Raises:
        CheckpointError: the file is damaged, of another format, or made for another model.
    """
    tensors, header = _read(path)
    if "progress" not in header:
        raise CheckpointError(f"{path}: holds weights only, no training state", hint="name it under weights: instead")
    try:
        model.load_state_dict(_section(tensors, "model."))
        ema.load_state_dict(_section(tensors, "ema."))
        _load_optimizer(optimizer, _section(tensors, "optimizer."))
        for name, gradient in _section(tensors, "gradient.").items():
            parameter = model.get_parameter(name)
            parameter.grad = _laid_out_like(parameter, gradient)
        return msgspec.json.decode(header["progress"], type=Progress)
    except (RuntimeError, ValueError, KeyError, AttributeError, msgspec.MsgspecError) as error:
        raise CheckpointError(
            f"{path}: does not fit this run's model: {str(error).splitlines()[0]}",
            hint="a run keeps its model and classes; give a changed spec another name",
        ) from error


def load_model(path: Path) -> tuple[dict[str, torch.Tensor], ModelDescription]:
    """The weights in `path` under the network's own names, and which network that is.

    Of a training state the averaged model is taken.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    tensors, header = _read(path)
    if "progress" in header:
        tensors = _section(tensors, "ema.")
    return tensors, _description(header, path)


def read_description(path: Path) -> ModelDescription:
    """Which network a checkpoint was made for, from its header alone.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    return _description(_read_header(path), path)


def _write(
    path: Path, tensors: Mapping[str, torch.Tensor], description: ModelDescription, progress: Progress | None
) -> int:
    header = {"format": FORMAT, "description": msgspec.json.encode(description).decode()}
    if progress is not None:
        header["progress"] = msgspec.json.encode(progress).decode()
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata=header
    )
    with atomic_writer(path) as file:
        file.write(content)
    return len(content)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    header = _read_header(path)
    try:
        return safetensors.torch.load_file(path), header
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error


def _read_header(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: its format is {header.get('format')!r}; this version reads {FORMAT!r}")
    return header


def _description(header: Mapping[str, str], path: Path) -> ModelDescription:
    try:
        return msgspec.json.decode(header["description"], type=ModelDescription)
    except (KeyError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path}: its header does not describe a network: {error}") from error


def _section(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, buffers: Mapping[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in buffers.items():
        index, buffer = re.fullmatch(r"(\d+)\.(\w+)", name).groups()  # type: ignore[union-attr]
        state.setdefault(int(index), {})[buffer] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, loaded in optimizer.state.items():
        for buffer, tensor in loaded.items():
            if tensor.shape == parameter.shape:
                loaded[buffer] = _laid_out_like(parameter, tensor)


def _laid_out_like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in the memory format of `parameter`: files are in rows, networks in channels last."""
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)
