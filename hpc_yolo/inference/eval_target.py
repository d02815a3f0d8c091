"""What is evaluated: a network and the images that it is tried on, from what a person names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.data.dataset import Dataset, load_dataset
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.run_inputs import dataset_yaml
from hpc_yolo.data.scan import scan_split
from hpc_yolo.inference.model import InferenceModel, load_inference_model
from hpc_yolo.models import Detector
from hpc_yolo.models.tta import augmented_forward
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import load_resolved_spec


@dataclass(frozen=True)
class Named:
    """What the name of a run or of a file stands for; the run's own data and image size where there is one."""

    weights: Path
    data: Path | None = None
    imgsz: int | None = None
    single_cls: bool = False


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode on its device, and a split of a dataset."""

    file: InferenceModel
    model: nn.Module
    stride: int  # sides of images are multiples of it
    device: torch.device
    dataset: Dataset
    split: str
    index: ImageIndex


class Augmented(nn.Module):
    """A network that sees every image in several views."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return augmented_forward(self.model, images), []


def find_named(path: Path) -> Named:
    """The weights that `path` names: a file, or a run directory, whose best model is taken.

    Raises:
        CheckpointError: there is nothing, or a run without a checkpoint.
    """
    run = RunDirectory(path if path.is_dir() else path.absolute().parent.parent)
    if path.is_dir() and not run.exists:
        raise CheckpointError(f"{path}: is no run directory", hint="name a run, or a file of weights")
    if not path.exists():
        raise CheckpointError(f"{path}: is not there", hint="see the runs there are with: hpc-yolo status")
    weights = path
    if path.is_dir():
        found = [checkpoint for checkpoint in (run.best, run.last) if checkpoint.exists()]
        if not found:
            raise CheckpointError(f"{path}: has no checkpoint yet", hint=f"how it stands: hpc-yolo follow {path}")
        weights = found[0]
    if not run.holds_checkpoint(weights):
        return Named(weights)
    spec = load_resolved_spec(run.spec)
    return Named(weights, dataset_yaml(run, spec.data), spec.train.imgsz, spec.train.single_cls)


def prepare_subject(
    weights: Path,
    data: Path,
    split: str,
    *,
    device: str,
    half: bool,
    augment: bool,
    single_cls: bool,
    tell: Callable[[str], None],
    on_progress: Callable[[int, int], None],
    needs_labels: bool = True,
) -> Subject:
    """Read the network, folded for inference, and the labels of a split.

    Args:
        augment: let it see every image in several views.
        tell: takes what a person should know.
        on_progress: told (images read, all images).
        needs_labels: refuse a split without labels, since all metrics of it are 0.

    Raises:
        CheckpointError: the weights cannot be read, or are for another number of classes.
        DataError: the dataset cannot be used.
        SpecError: the device cannot do what is asked.
    """
    file = load_inference_model(weights, device=device, half=half, augment=augment)
    dataset = load_dataset(data, single_cls=single_cls, needed_splits=(split,))
    _require_same_classes(file, dataset, tell)
    index = scan_split(dataset, split, on_progress, needs_labels=needs_labels)
    for message in (*dataset.messages, *index.messages):
        tell(message)
    if not index.has_labels:
        tell(f"{split}: no image has labels, so all metrics are 0; detections are written")
    network = Augmented(file.model) if augment and isinstance(file.model, Detector) else file.model
    return Subject(file, network.eval(), file.stride, file.device, dataset, split, index)


def _require_same_classes(file: InferenceModel, dataset: Dataset, tell: Callable[[str], None]) -> None:
    if dataset.single_cls:
        return
    if len(file.names) != dataset.num_classes:
        raise CheckpointError(
            f"{file.path}: detects {len(file.names)} classes ({_shown(file.names)}), and {dataset.source} has "
            f"{dataset.num_classes} ({_shown(dataset.names)})",
            hint="give the dataset that it was trained for with --data, or take all classes for one with --single-cls",
        )
    for ours, theirs in zip(file.names, dataset.names, strict=True):
        if ours != theirs:
            tell(f"class {file.names.index(ours)} is called {ours!r} by the weights and {theirs!r} by the dataset")
            return


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
