"""The content of a model file of this project or of YOLOv5: tensors, layers and class names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpc_yolo.checkpoint import ModelDescription, load_model
from hpc_yolo.core.errors import CheckpointError, SpecError
from hpc_yolo.models import Detector, build_from_config, tensor_shapes
from hpc_yolo.weights.archive import CHECKPOINT_SUFFIX, READ_FORMS, is_pickled, refuse_other_forms
from hpc_yolo.weights.pickled import PickledModel, read_pickled_model

ARCHITECTURE = ("depth_multiple", "width_multiple", "anchors", "backbone", "head")
OPTIONAL = ("activation", "channel_multiple")
DEFAULT_IMGSZ = 640
MAX_CLASSES = 100_000
MAX_SHOWN = 80  # characters of a name
ANCHORS = "anchors"  # in the name of the head's buffer


@dataclass(frozen=True)
class ModelFile:
    """`tensors` are fp32 under the model's own names; `config` as `models.load_config` gives it."""

    path: Path
    model: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    names: tuple[str, ...]
    imgsz: int | None  # image size in training, in pixels, if the file has it


@dataclass(frozen=True)
class Transfer:
    """The number of a model's tensors that were loaded from a file."""

    num_kept: int
    num_tensors: int


def read_model_file(path: Path) -> ModelFile:
    """Return the model in a checkpoint of this project or a `.pt` file of YOLOv5; of a training state the averaged one.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, of another format, or its tensors are not
            those of the model that it describes.
    """
    if path.is_dir():
        raise CheckpointError(
            f"{path}: is a directory", hint="name a file, of a run checkpoints/best.safetensors in it"
        )
    if is_pickled(path):
        file = _from_pickled(path, read_pickled_model(path))
    else:
        refuse_other_forms(path)
        file = _from_checkpoint(path)
    _require_own_tensors(file)
    return file


def _from_checkpoint(path: Path) -> ModelFile:
    try:
        tensors, description = load_model(path)
    except CheckpointError as error:
        if path.suffix.lower() == CHECKPOINT_SUFFIX or not path.is_file():
            raise
        raise CheckpointError(f"{path}: is not a weights file", hint=READ_FORMS) from error
    return ModelFile(
        path=path,
        model=description.model,
        config=description.config,
        tensors=tensors,
        names=tuple(description.names),
        imgsz=description.imgsz,
    )


def _from_pickled(path: Path, found: PickledModel) -> ModelFile:
    missing = [key for key in ARCHITECTURE if key not in found.architecture]
    if missing:
        raise CheckpointError(f"{path}: does not describe its model: no {', '.join(missing)}")
    num_classes = found.architecture.get("nc", len(found.names))
    if type(num_classes) is not int or not 1 <= num_classes <= MAX_CLASSES:
        raise CheckpointError(f"{path}: its nc, the number of classes, is {num_classes!r}")
    names = tuple(found.names.get(index, f"class{index}") for index in range(num_classes))
    return ModelFile(
        path=path,
        model=path.stem,
        config={key: found.architecture[key] for key in (*ARCHITECTURE, *OPTIONAL) if key in found.architecture},
        tensors=found.tensors,
        names=names,
        imgsz=found.imgsz,
    )


def _require_own_tensors(file: ModelFile) -> None:
    """Check that the description fits the tensors, before memory is allocated for its model."""
    try:
        shapes = tensor_shapes(file.config, len(file.names), "its description")
    except SpecError as error:
        raise CheckpointError(f"{file.path}: describes a model that cannot be built: {error.message}") from error
    missing = [name for name in shapes if name not in file.tensors]
    others = [name for name, tensor in file.tensors.items() if shapes.get(name) != tensor.shape]
    if missing or others:
        raise CheckpointError(
            f"{file.path}: its tensors are not those of the model that it describes: {len(missing)} are missing, "
            f"{len(others)} are others, such as {(missing + others)[0][:MAX_SHOWN]}",
            hint="an exported, fused or edited file cannot be used; use the one that training wrote",
        )


def build_detector(file: ModelFile) -> Detector:
    """Return the model of `file` with its weights, in evaluation mode.

    Raises:
        SpecError: its layers do not fit together.
    """
    model = build_from_config(file.config, len(file.names), str(file.path))
    model.load_state_dict(file.tensors)
    return model.eval()


def description_of(file: ModelFile) -> ModelDescription:
    """Return the metadata of the model in `file` for a checkpoint of this project."""
    return ModelDescription(
        model=file.model, config=file.config, names=list(file.names), imgsz=file.imgsz or DEFAULT_IMGSZ
    )


def transfer(file: ModelFile, model: Detector, *, with_anchors: bool = True) -> Transfer:
    """Copy the tensors of `file` that have the same name and shape into `model`.

    Raises:
        CheckpointError: nothing fits.
    """
    wanted = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in file.tensors.items()
        if name in wanted and wanted[name].shape == tensor.shape and (with_anchors or ANCHORS not in name)
    }
    if not fitting:
        raise CheckpointError(f"{file.path}: none of its {len(file.tensors)} tensors fits the model")
    model.load_state_dict(fitting, strict=False)
    return Transfer(len(fitting), len(wanted))
