"""Evaluations during training, and the record of the best one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import nn

from hpc_yolo.checkpoint.state import StateDict
from hpc_yolo.data.batch import ValidationBatch
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.distributed import World
from hpc_yolo.evaluation.crowds import crowds_of
from hpc_yolo.evaluation.evaluator import EvaluationResult, evaluate
from hpc_yolo.evaluation.metrics import DetectionMetrics

NO_FITNESS = -1.0


@dataclass
class EvaluationRecord:
    """The best evaluation so far, and results of the last one.

    Attributes:
        best_epoch: from 0; -1 before the first evaluation.
        waiting: epochs whose models another job evaluates and whose results are not known yet, in their order.
        class_maps: mAP50-95 of each class at the last evaluation.
        stopped_of_epochs: number of epochs to which the trial was to train when the stop rule of its sweep ended it;
            0 before. With more epochs it goes on.
    """

    best_fitness: float = NO_FITNESS
    best_epoch: int = -1
    class_maps: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    stopped_of_epochs: int = 0

    def add(self, metrics: DetectionMetrics, epoch: int, num_classes: int) -> bool:
        """Record an evaluation and return whether it is the best so far."""
        self.class_maps = metrics.class_maps(num_classes)
        return self.add_fitness(metrics.mean.fitness, epoch)

    def add_fitness(self, fitness: float, epoch: int) -> bool:
        """Record the fitness of an evaluation and return whether it is the best so far."""
        is_best = fitness > self.best_fitness
        if is_best:
            self.best_fitness, self.best_epoch = fitness, epoch
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Replace all fields. A best fitness that is not finite is dropped: no later one would be better."""
        for name in (each.name for each in fields(self)):
            setattr(self, name, state_dict[name])
        if not math.isfinite(self.best_fitness):
            self.best_fitness = NO_FITNESS


def evaluate_average(
    model: nn.Module,
    batches: Iterable[ValidationBatch],
    index: ImageIndex,
    autocast: AbstractContextManager[object],
    world: World,
) -> EvaluationResult:
    """Return the metrics of the averaged `model`, over the images of all ranks and on every rank.

    Args:
        batches: this rank's shard of the images of `index`.
        index: all validation images.
    """
    # Each rank's running statistics come from its own shard; rank 0's are those that get saved.
    world.broadcast([tensor for tensor in model.buffers() if tensor.is_floating_point()])
    with autocast:
        return evaluate(model, batches, device=world.device, gather_arrays=world.gather_arrays, crowds=crowds_of(index))
