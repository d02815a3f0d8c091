"""What one rank of one attempt trains with."""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hpc_yolo import checkpoint
from hpc_yolo.checkpoint import ModelDescription, Progress, TrainingState
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.models import Detector
from hpc_yolo.models.losses.yolov5 import DetectionLoss
from hpc_yolo.spec.schema import Spec
from hpc_yolo.training.ema import ModelEma
from hpc_yolo.training.optimizer import Schedule


@dataclass
class TrainingParts:
    """All that `build` assembles for one attempt on one rank."""

    spec: Spec
    config: dict[str, Any]  # the rows of `model`
    names: list[str]
    model: Detector
    trained: nn.Module  # `model`, or DistributedDataParallel around it
    ema: ModelEma
    loss: DetectionLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    dtype: torch.dtype  # of weights, loss and statistics
    autocast_dtype: torch.dtype | None
    schedule: Schedule
    training: TrainingLoader
    validation: ValidationLoader
    progress: Progress

    @property
    def description(self) -> ModelDescription:
        """What a checkpoint says of the network; the anchors are those that it learns with."""
        anchors = self.model.head.anchors_pixels().flatten(1).tolist()
        return ModelDescription(
            model=self.spec.model,
            config={**self.config, "anchors": anchors},
            names=self.names,
            imgsz=self.spec.train.imgsz,
        )

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Mixed precision where the device has it."""
        dtype = self.autocast_dtype
        return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def restore(self, state: TrainingState) -> None:
        """Go on from `state`.

        Raises:
            CheckpointError: it was made for another model, spec or number of images.
        """
        before, now = state.progress, self.progress
        if before.num_images != now.num_images:
            raise CheckpointError(
                f"{state.path}: was made with {before.num_images} training images, and there are {now.num_images} now",
                hint="bring the dataset back, or give a run on the new one another name and weights: best.safetensors",
            )
        if before.spec_digest != now.spec_digest:
            raise CheckpointError(
                f"{state.path}: was saved by a run that learns something else",
                hint="to begin with its weights, name the file under weights: in a new run",
            )
        if before.inputs_digest not in ("", now.inputs_digest):
            raise CheckpointError(
                f"{state.path}: was saved with other hyperparameters, another model or other classes than those in "
                f"{state.path.parent.parent / 'inputs'}",
                hint="bring the files there back; to begin with its weights, name the file under weights: in a new run",
            )
        self.optimizer.zero_grad()
        checkpoint.restore(state, model=self.model, ema=self.ema.model, optimizer=self.optimizer)
        self.progress = before
        self.progress.attempt, self.progress.inputs_digest = now.attempt, now.inputs_digest
        self.loss.anchors.copy_(self.model.head.anchors)
        self.ema.updates = before.ema_updates
        if not math.isfinite(before.best_fitness):  # nothing would ever be better
            before.best_fitness = Progress().best_fitness
        # Empty where the attempt before needed none. A scale that is not finite would spoil every gradient.
        if before.scaler and all(map(math.isfinite, before.scaler.values())):
            self.scaler.load_state_dict(before.scaler)
