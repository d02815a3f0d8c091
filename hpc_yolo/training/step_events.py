"""Metrics of the training loop as events of the journal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpc_yolo.evaluation.evaluator import EvaluationResult
from hpc_yolo.runs.events import EpochEnded, Evaluated, StepLogged
from hpc_yolo.training.context import TrainingContext


def step_logged(context: TrainingContext, step: int) -> StepLogged:
    """Return the means over the steps since the last such event; all ranks must call this."""
    losses, ranks = context.meter.read_log()
    uses = [None if math.isnan(rank.device_use) else rank.device_use for rank in ranks]
    return StepLogged(
        epoch=(step - 1) // context.schedule.steps_per_epoch,
        step=step,
        losses=losses,
        grad_norm=float(context.updater.grad_norm),
        lr=context.schedule.at(step - 1).lr,
        images_per_s=context.schedule.batch / ranks[0].step_s,
        rank_step_s=[rank.step_s for rank in ranks],
        rank_data_wait_s=[rank.data_wait_s for rank in ranks],
        rank_batches_ready=[rank.batches_ready for rank in ranks],
        rank_forward_s=[rank.forward_s for rank in ranks],
        rank_mem_bytes=[int(rank.mem_bytes) for rank in ranks],
        rank_device_use=[] if uses.count(None) == len(uses) else uses,
    )


def epoch_ended(context: TrainingContext, step: int) -> EpochEnded:
    """Return the means over an epoch, whose speed is that of this attempt's steps; all ranks must call this."""
    losses, seconds = context.meter.read_epoch()
    return EpochEnded(
        epoch=(step - 1) // context.schedule.steps_per_epoch,
        step=step,
        losses=losses,
        lr=context.schedule.at(step - 1).lr,
        images_per_s=context.meter.num_steps_here * context.schedule.batch / seconds,
        seconds=seconds,
    )


def evaluated(
    result: EvaluationResult, names: Sequence[str], epoch: int, step: int, seconds: float, *, is_best: bool
) -> Evaluated:
    """Return the event of an evaluation."""
    metrics = result.metrics
    return Evaluated(
        epoch=epoch,
        step=step,
        num_images=result.num_images,
        metrics=metrics.mean,
        images_per_s=result.num_images / seconds,
        seconds=seconds,
        is_best=is_best,
        classes=metrics.named(names),
    )
