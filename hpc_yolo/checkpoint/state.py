"""The contents of a checkpoint: the state of every stateful part of a training; never a pickle.

A part's state is a flat dict. Its tensors are stored as `<part>.<name>`; its other values, which JSON can hold, are in
the header, as is a `ModelDescription`. A file of weights alone, such as `best`, holds the averaged model under its
own names.

The JSON is Python's: a number that is not finite is written as NaN, Infinity or -Infinity and read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch

from hpc_yolo.checkpoint.file import read_file, write_file
from hpc_yolo.core.errors import CheckpointError

StateDict = Mapping[str, Any]  # tensors, and values that JSON can hold


class Stateful(Protocol):
    """A part of a training that a checkpoint restores."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state; some objects gather it over all ranks, which must all call this."""

    def load_state_dict(self, state_dict: StateDict, /) -> object:
        """Replace the state by `state_dict`."""


class Position(msgspec.Struct):
    """The position of a training: one integer, and the epochs that are trained, logged and evaluated.

    Attributes:
        step: global batches since the beginning of training.
    """

    step: int = 0
    finished_epochs: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return both numbers."""
        return msgspec.structs.asdict(self)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Replace both numbers."""
        restored = msgspec.convert(state_dict, Position)
        self.step, self.finished_epochs = restored.step, restored.finished_epochs


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """Description from which a reader rebuilds the model; `config` holds its layers as `models.load_config` does."""

    model: str
    config: dict[str, Any]
    names: list[str]
    imgsz: int


@dataclass(frozen=True)
class TrainingState:
    """A training state that was read and checked."""

    path: Path
    parts: dict[str, dict[str, Any]]
    position: Position
    description: ModelDescription

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors under the names that the file has for them."""
        return dict(named_tensors(self.parts))


def named_tensors(parts: Mapping[str, StateDict]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each tensor of `parts` with its name in a file."""
    for part, state in parts.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                yield f"{part}.{name}", value


def header_texts(description: ModelDescription, parts: Mapping[str, StateDict] | None = None) -> dict[str, str]:
    """Return the texts for a file's header; without `parts` those of a file of weights alone."""
    texts = {"description": _to_json(msgspec.to_builtins(description))}
    if parts is not None:
        values = {
            part: {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}
            for part, state in parts.items()
        }
        texts["values"] = _to_json(values)
    return texts


def save_model(path: Path, model: torch.nn.Module, description: ModelDescription) -> int:
    """Write the weights of `model` alone and return the file's size in bytes."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return write_file(path, tensors, header_texts(description))


def read_state(path: Path) -> TrainingState:
    """Read the training state in `path` and check every byte of it.

    Raises:
        CheckpointError: the file is damaged, of another format, or holds weights only.
    """
    tensors, texts = read_file(path)
    if "values" not in texts:
        raise CheckpointError(f"{path}: holds weights only, no training state", hint="name it under weights: instead")
    try:
        parts = msgspec.convert(json.loads(texts["values"]), dict[str, dict[str, Any]])
        position = msgspec.convert(parts["position"], Position)
    except (ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header holds no position of a training: {error}") from error
    for name, tensor in tensors.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = tensor
    return TrainingState(path, parts, position, _description(texts, path))


def restore(parts: Mapping[str, Stateful], state: TrainingState) -> None:
    """Load `state` into `parts`, in their order.

    Raises:
        CheckpointError: it was made for another model, or a part refuses it.
    """
    for name, part in parts.items():
        try:
            part.load_state_dict(state.parts[name])
        except CheckpointError as error:
            raise CheckpointError(f"{state.path}: {error.message}", hint=error.hint) from error
        except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"{state.path}: does not fit this run's model: {name}: {str(error).splitlines()[0]}",
                hint="a run keeps its model and classes; give a changed spec another name",
            ) from error


def load_model(path: Path) -> tuple[dict[str, torch.Tensor], ModelDescription]:
    """Return the weights in `path` under the model's own names, and the description of that model.

    Of a training state the averaged model is taken.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    tensors, texts = read_file(path)
    if "values" in texts:
        tensors = {name.removeprefix("ema."): tensor for name, tensor in tensors.items() if name.startswith("ema.")}
    return tensors, _description(texts, path)


def _description(texts: Mapping[str, str], path: Path) -> ModelDescription:
    try:
        return msgspec.convert(json.loads(texts["description"]), ModelDescription)
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header does not describe a model: {error}") from error


def _to_json(value: object) -> str:
    """Return `value` as JSON that `json.loads` restores."""
    text = json.dumps(value, separators=(",", ":"))
    assert json.dumps(json.loads(text), separators=(",", ":")) == text
    return text
