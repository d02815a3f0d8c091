"""What a checkpoint says: tensors under names, and JSON; never a pickle.

Tensors are named `model.<key>`, `ema.<key>`, `optimizer.<parameter>.<buffer>` and, between two optimiser steps,
`gradient.<parameter>`; the texts hold a `Progress` and a `ModelDescription`.
`best` holds the averaged model alone, under plain keys.

The JSON is Python's: a number that is not finite is written as NaN, Infinity or -Infinity and read as what it was.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from hpc_yolo.checkpoint.file import read_file, write_file
from hpc_yolo.core.errors import CheckpointError

Text = TypeVar("Text", bound=msgspec.Struct)


class Progress(msgspec.Struct, kw_only=True):
    """Where training stands, besides the tensors. Positions count global batches from the start of training."""

    attempt: int = 0  # that saved it
    spec_digest: str = ""  # of what the run learns: it must not go on with another spec's state
    inputs_digest: str = ""  # of its hyperparameters, model and classes; empty in files of earlier versions
    num_images: int = 0  # of the training set: epochs have no meaning with another number
    step: int = 0
    finished_epochs: int = 0  # trained, logged and evaluated
    last_optimizer_step: int = -1
    ema_updates: int = 0
    best_fitness: float = -1.0
    best_epoch: int = -1
    rank_items: list[list[float]] = msgspec.field(default_factory=list)  # see `StepMeter.rank_sums`
    grad_norm: float = 0.0  # at the last optimiser step
    class_maps: list[float] = msgspec.field(default_factory=list)  # mAP50-95 of each class at the last evaluation
    scaler: dict[str, int | float] = msgspec.field(default_factory=dict)
    bad_steps: list[int] = msgspec.field(default_factory=list)  # whose batches gave numbers that are not finite


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader needs to rebuild the network."""

    model: str
    config: dict[str, Any]  # the rows of the network, as `models.load_config` gives them
    names: list[str]
    imgsz: int


@dataclass(frozen=True)
class TrainingState:
    """A training state that was read and checked."""

    path: Path
    tensors: dict[str, torch.Tensor]
    progress: Progress
    description: ModelDescription


def steady_tensors(
    model: torch.nn.Module, ema: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The part of the training state that only an optimiser step changes."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    for index, buffers in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in buffers.items() if value is not None}
    return tensors


def fleeting_tensors(model: torch.nn.Module, gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part that every forward or backward pass changes: running statistics, and gradients not yet used."""
    parameters = {name for name, _ in model.named_parameters()}
    tensors = {f"model.{key}": value for key, value in model.state_dict().items() if key not in parameters}
    return tensors | {f"gradient.{name}": value for name, value in gradients.items()}


def texts_of(description: ModelDescription, progress: Progress | None) -> dict[str, str]:
    """Return what goes into a file's header, without `progress` for weights alone; `read_state` is sure to read it."""
    texts = {"description": _written(description)}
    if progress is not None:
        texts["progress"] = _written(progress)
    return texts


def save_model(path: Path, model: torch.nn.Module, description: ModelDescription) -> int:
    """Write the weights of `model` alone; the file's size in bytes."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return write_file(path, tensors, texts_of(description, None))


def read_state(path: Path) -> TrainingState:
    """The training state in `path`, every byte of it checked.

    Raises:
        CheckpointError: the file is damaged, of another format, or holds weights only.
    """
    tensors, texts = read_file(path)
    if "progress" not in texts:
        raise CheckpointError(f"{path}: holds weights only, no training state", hint="name it under weights: instead")
    try:
        progress = _read(texts["progress"], Progress)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header does not say where training stands: {error}") from error
    return TrainingState(path, tensors, progress, _description(texts, path))


def restore(
    state: TrainingState, *, model: torch.nn.Module, ema: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Fill `model` with its gradients, `ema` and `optimizer` from `state`.

    Raises:
        CheckpointError: it was made for another model.
    """
    try:
        model.load_state_dict(_section(state.tensors, "model."))
        ema.load_state_dict(_section(state.tensors, "ema."))
        _load_optimizer(optimizer, _section(state.tensors, "optimizer."))
        for name, gradient in _section(state.tensors, "gradient.").items():
            parameter = model.get_parameter(name)
            parameter.grad = _laid_out_like(parameter, gradient)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{state.path}: does not fit this run's model: {str(error).splitlines()[0]}",
            hint="a run keeps its model and classes; give a changed spec another name",
        ) from error


def load_model(path: Path) -> tuple[dict[str, torch.Tensor], ModelDescription]:
    """The weights in `path` under the network's own names, and which network that is.

    Of a training state the averaged model is taken.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    tensors, texts = read_file(path)
    if "progress" in texts:
        tensors = _section(tensors, "ema.")
    return tensors, _description(texts, path)


def _description(texts: Mapping[str, str], path: Path) -> ModelDescription:
    try:
        return _read(texts["description"], ModelDescription)
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header does not describe a network: {error}") from error


def _written(value: msgspec.Struct) -> str:
    """`value` as JSON that `_read` makes the same of."""
    text = _json(value)
    assert _json(_read(text, type(value))) == text
    return text


def _json(value: msgspec.Struct) -> str:
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))


def _read(text: str, kind: type[Text]) -> Text:
    """What `_written` wrote, or what earlier versions wrote, with null for every number that is not finite.

    Raises:
        ValueError: it is neither.
    """
    content = json.loads(text)
    if kind is Progress and isinstance(content, dict):
        content = {name: _without_nulls(value) for name, value in content.items()}
    return msgspec.convert(content, kind)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items()}
    return math.nan if value is None else value


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
