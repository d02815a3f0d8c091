"""The objects with which one rank of one attempt trains, and those whose state is in a checkpoint."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpc_yolo.checkpoint import ModelDescription, Position, Stateful
from hpc_yolo.checkpoint.state import StateDict
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.models import Detector
from hpc_yolo.models.losses.base import Loss
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.ema import ModelEma
from hpc_yolo.training.evaluation import EvaluationRecord
from hpc_yolo.training.meter import StepMeter
from hpc_yolo.training.nan_guard import NanGuard
from hpc_yolo.training.optimizer import Schedule
from hpc_yolo.training.updater import PendingGradients, Updater
from hpc_yolo.training.upload import BatchUpload


@dataclass(frozen=True)
class TrainingIdentity:
    """The inputs that must not change during a run.

    Attributes:
        num_images: of the training set; epochs have no meaning with another number.
        spec_digest: of the fields that decide what the run learns.
        inputs_digest: of hyperparameters, model and classes.
        inputs: the directory with the run's copies of these.
    """

    num_images: int
    spec_digest: str = ""
    inputs_digest: str = ""
    inputs: Path = field(default=Path("inputs"), compare=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the values that later attempts must match."""
        return {
            "num_images": self.num_images,
            "spec_digest": self.spec_digest,
            "inputs_digest": self.inputs_digest,
        }

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Compare the identity that a state was saved with.

        Raises:
            CheckpointError: it differs.
        """
        if state_dict["num_images"] != self.num_images:
            raise CheckpointError(
                f"was made with {state_dict['num_images']} training images, and there are {self.num_images} now",
                hint="bring the dataset back, or give a run on the new one another name and weights: best.safetensors",
            )
        if state_dict["spec_digest"] != self.spec_digest:
            raise CheckpointError(
                "was saved by a run with another training spec",
                hint="to start from its weights, name the file under weights: in a new run",
            )
        if state_dict["inputs_digest"] != self.inputs_digest:
            raise CheckpointError(
                f"was saved with other hyperparameters, another model or other classes than those in {self.inputs}",
                hint="bring the files there back; to start from its weights, name the file under weights: in a new run",
            )


@dataclass
class TrainingContext:
    """All that `build` assembles for one attempt on one rank.

    Attributes:
        config: the layers of `model`, with the anchors as they were before fitting.
        trained: `model`, or DistributedDataParallel around it.
        loss: shares its anchors with the head of `model`.
        evaluates_aside: the spec requests that another job evaluates.
    """

    train: TrainSpec
    checkpoint: CheckpointSpec
    model_name: str
    config: dict[str, Any]
    names: list[str]
    identity: TrainingIdentity
    model: Detector
    trained: nn.Module
    upload: BatchUpload
    ema: ModelEma
    loss: Loss
    updater: Updater
    autocast_dtype: torch.dtype | None
    schedule: Schedule
    training: TrainingLoader
    validation: ValidationLoader
    meter: StepMeter
    evaluations: EvaluationRecord
    nan_guard: NanGuard
    position: Position = field(default_factory=Position)
    attempt: int = 1
    evaluates_aside: bool = False

    @cached_property
    def dtype(self) -> torch.dtype:
        """Type of weights, loss and statistics."""
        return next(self.model.parameters()).dtype

    @property
    def stateful_parts(self) -> dict[str, Stateful]:
        """The parts of a checkpoint, in the order in which they are restored."""
        return {
            "identity": self.identity,
            "position": self.position,
            "model": self.model,
            "gradients": PendingGradients(self.model),
            "ema": self.ema,
            "optimizer": self.updater,
            "meter": self.meter,
            "evaluations": self.evaluations,
            "nan_guard": self.nan_guard,
        }

    @cached_property
    def volatile_names(self) -> frozenset[str]:
        """Names of the tensors in a checkpoint that the next forward or backward pass changes."""
        gradients = {f"gradients.{name}" for name, _ in self.model.named_parameters()}
        return frozenset(gradients | {f"model.{name}" for name, _ in self.model.named_buffers()})

    @property
    def description(self) -> ModelDescription:
        """The model for readers of a checkpoint; the anchors are those used in training."""
        return ModelDescription(
            model=self.model_name,
            config=self.model.head.trained_config(self.config),
            names=self.names,
            imgsz=self.train.imgsz,
        )

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return a context manager for mixed precision, without effect if the device lacks it."""
        dtype = self.autocast_dtype
        return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)
