"""Evaluations by a job of its own, seen from the training: models are handed over, results are taken in between epochs.

The training never waits for a result. What it takes in is in the next checkpoint; models whose results are missing when
the training ends, or when no job can be queued any more, are evaluated by the tasks themselves, in the order of epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import msgspec
import torch
from torch import nn

from hpc_yolo.checkpoint import load_model
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.files import sync_directory
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.evaluations import results_by_epoch
from hpc_yolo.runs.events import AnyEvent, Evaluated, WarningRaised
from hpc_yolo.training.checkpointer import Checkpointer
from hpc_yolo.training.context import TrainingContext

MAX_WAITING = 20  # models on disk; with more of them the tasks evaluate


class AsideEvaluations:
    """The models of a run that another job evaluates. All ranks call the methods alike; rank 0 reads and writes."""

    def __init__(
        self,
        context: TrainingContext,
        world: World,
        run: RunDirectory,
        checkpointer: Checkpointer,
        emit: Callable[[AnyEvent], None],
        before_publish: Callable[[], None] = lambda: None,
    ) -> None:
        """Initialize the evaluations.

        Args:
            before_publish: called before a file is changed; an error that it raises ends the attempt.
        """
        self._context, self._world, self._run, self._emit = context, world, run, emit
        self._checkpointer, self._before_publish = checkpointer, before_publish
        self._is_reported = False

    @property
    def waiting(self) -> list[int]:
        """Epochs, from 0, whose results are not known yet, in their order."""
        return self._context.evaluations.waiting

    def hands_over(self, epoch: int) -> bool:
        """Save the model of `epoch` for another job, unless it is the last one, no job is queued, or too many wait."""
        if not self._context.evaluates_aside or epoch + 1 >= self._context.train.epochs:
            return False
        job_id = self._world.process.job_id
        is_served = job_id is not None and self._run.evaluation_queue(job_id).exists()
        is_served = bool(self._world.gather_numbers([is_served])[0][0])  # as rank 0 finds it
        if not is_served or len(self.waiting) >= MAX_WAITING:
            self._report(f"{MAX_WAITING} models wait for a job" if is_served else "no process queues such jobs here")
            return False
        self._checkpointer.save_model(self._run.waiting_model(epoch), epoch)
        self.waiting.append(epoch)
        return True

    def take_in(self) -> None:
        """Record the results that are there, and write their events; the best model gets its name."""
        if not self.waiting:
            return
        record, before = self._context.evaluations, list(self.waiting)
        if self._world.is_main:
            found = results_by_epoch(self._run)
            for epoch in before:
                if epoch in found:
                    self._take_in(epoch, found[epoch])
        mine = [record.best_fitness, record.best_epoch, *(epoch in self.waiting for epoch in before)]
        fitness, best_epoch, *still_waiting = self._world.gather_numbers(mine)[0]
        record.best_fitness, record.best_epoch = fitness, int(best_epoch)
        record.waiting = [epoch for epoch, waits in zip(before, still_waiting, strict=True) if waits]

    def models(self) -> Iterator[tuple[int, nn.Module]]:
        """Yield (epoch, model) of those that wait, in their order; `settle` follows each. Others are reported."""
        for epoch in list(self.waiting):
            model = self._load(epoch)
            if model is None:
                self.waiting.remove(epoch)
            else:
                yield epoch, model

    def settle(self, epoch: int, *, is_best: bool) -> None:
        """Give the model of `epoch` the name of the best one, or remove it; its result is known."""
        self.waiting.remove(epoch)
        if not self._world.is_main:
            return
        self._checkpointer.wait()  # it may be writing the best model so far
        self._before_publish()
        path = self._run.waiting_model(epoch)
        if is_best and path.exists():  # else an earlier attempt has renamed it after the last checkpoint
            path.replace(self._run.best)
            sync_directory(path.parent)
        else:
            path.unlink(missing_ok=True)

    def remove_models(self) -> None:
        """Remove models that nothing waits for, of steps that were lost and done again."""
        if self._context.evaluates_aside and self._world.is_main:
            self._checkpointer.wait()
            for path in self._run.checkpoints.glob(self._run.waiting_model("*").name):
                path.unlink(missing_ok=True)

    def _take_in(self, epoch: int, result: Evaluated) -> None:
        is_best = self._context.evaluations.add_fitness(result.metrics.fitness, epoch)
        self.settle(epoch, is_best=is_best)
        step = (epoch + 1) * self._context.schedule.steps_per_epoch
        self._emit(msgspec.structs.replace(result, step=step, is_best=is_best, is_aside=True))

    def _load(self, epoch: int) -> nn.Module | None:
        """Return the model of `epoch`, the same on all ranks; None if its file cannot be read."""
        tensors: dict[str, torch.Tensor] = {}
        if self._world.is_main:
            self._checkpointer.wait()
            try:
                tensors, _ = load_model(self._run.waiting_model(epoch))
            except (OSError, HpcYoloError) as error:
                self._emit(WarningRaised(message=f"epoch {epoch + 1} is not evaluated: {error}"))
        if not self._world.gather_numbers([bool(tensors)])[0][0]:
            return None
        return with_weights(self._context.ema.model, tensors, self._world)

    def _report(self, why: str) -> None:
        if not self._is_reported:
            self._is_reported = True
            self._emit(WarningRaised(message=f"validate: aside: {why}, so the tasks evaluate the model themselves"))


def with_weights(model: nn.Module, tensors: dict[str, torch.Tensor], world: World) -> nn.Module:
    """Return a copy of `model` with the weights `tensors` of rank 0; all ranks must call this."""
    model = copy.deepcopy(model)
    if world.is_main:
        model.load_state_dict(tensors)
    for tensor in model.state_dict().values():
        whole = tensor.contiguous()
        world.broadcast([whole])
        tensor.copy_(whole)
    return model
