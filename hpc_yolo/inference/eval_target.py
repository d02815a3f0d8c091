"""The target of an evaluation: a model and a split of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.data.dataset import Dataset, load_dataset
from hpc_yolo.data.dataset_source import DatasetSource, source_of_run
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.scan import scan_split
from hpc_yolo.inference.model import InferenceModel, load_inference_model
from hpc_yolo.models import Detector
from hpc_yolo.models.tta import augmented_forward
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import load_resolved_spec


@dataclass(frozen=True)
class ResolvedWeights:
    """A weights file; for that of a run also its dataset, image size and `single_cls`."""

    weights: Path
    data: DatasetSource | None = None
    imgsz: int | None = None
    single_cls: bool = False


@dataclass(frozen=True)
class EvalTarget:
    """A model in evaluation mode on its device, and a split of a dataset."""

    file: InferenceModel
    model: nn.Module
    stride: int  # sides of images are multiples of it
    device: torch.device
    dataset: Dataset
    split: str
    index: ImageIndex


class Augmented(nn.Module):
    """Test-time augmentation: the model is applied to several views of each image."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the decoded detections of all views and no raw outputs."""
        return augmented_forward(self.model, images), []


def resolve_weights(path: Path) -> ResolvedWeights:
    """Return the weights at `path`: the file itself, or the best model of a run directory.

    Raises:
        CheckpointError: `path` does not exist, or is a run without a checkpoint.
    """
    run = RunDirectory(path if path.is_dir() else path.absolute().parent.parent)
    if path.is_dir() and not run.exists:
        raise CheckpointError(f"{path}: not a run directory", hint="name a run directory or a weights file")
    if not path.exists():
        raise CheckpointError(f"{path}: not found", hint="hpc-yolo status lists the known runs")
    weights = path
    if path.is_dir():
        found = [checkpoint for checkpoint in (run.best, run.last) if checkpoint.exists()]
        if not found:
            raise CheckpointError(
                f"{path}: has no checkpoint yet", hint=f"hpc-yolo follow {run.word} shows its progress"
            )
        weights = found[0]
    if not run.holds_checkpoint(weights):
        return ResolvedWeights(weights)
    spec = load_resolved_spec(run.spec)
    return ResolvedWeights(weights, source_of_run(run, spec.data), spec.train.imgsz, spec.train.single_cls)


def load_eval_target(
    weights: Path,
    data: DatasetSource,
    split: str,
    *,
    device: str,
    half: bool,
    augment: bool,
    single_cls: bool,
    on_message: Callable[[str], None],
    on_progress: Callable[[int, int], None],
    needs_labels: bool = True,
) -> EvalTarget:
    """Load the model, fused for inference, and the labels of a split.

    Args:
        augment: apply the model to several views of each image.
        on_message: called with messages for the user.
        on_progress: called with (images read, all images).
        needs_labels: refuse a split without labels, since all of its metrics are 0.

    Raises:
        CheckpointError: the weights cannot be read, or have another number of classes.
        DataError: the dataset cannot be used.
        SpecError: the device does not support an option.
    """
    file = load_inference_model(weights, device=device, half=half, augment=augment)
    dataset = load_dataset(data, single_cls=single_cls, needed_splits=(split,))
    _require_same_classes(file, dataset, on_message)
    index = scan_split(dataset, split, on_progress, needs_labels=needs_labels)
    for message in (*dataset.messages, *index.messages):
        on_message(message)
    if not index.has_labels:
        on_message(f"{split}: no image has labels, so all metrics are 0; detections are written")
    model = Augmented(file.model) if augment and isinstance(file.model, Detector) else file.model
    return EvalTarget(file, model.eval(), file.stride, file.device, dataset, split, index)


def _require_same_classes(file: InferenceModel, dataset: Dataset, on_message: Callable[[str], None]) -> None:
    if dataset.single_cls:
        return
    if len(file.names) != dataset.num_classes:
        raise CheckpointError(
            f"{file.path}: detects {len(file.names)} classes ({_shown(file.names)}), and {dataset.source} has "
            f"{dataset.num_classes} ({_shown(dataset.names)})",
            hint="name its own dataset with --data, or treat all classes as one with --single-cls",
        )
    for ours, theirs in zip(file.names, dataset.names, strict=True):
        if ours != theirs:
            index = file.names.index(ours)
            on_message(f"class {index} is called {ours!r} by the weights and {theirs!r} by the dataset")
            return


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
