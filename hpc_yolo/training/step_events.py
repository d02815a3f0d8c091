"""Figures of the training loop as events of the journal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from hpc_yolo.evaluation.evaluator import EvaluationResult
from hpc_yolo.runs.events import EpochEnded, Evaluated, StepLogged
from hpc_yolo.training.meter import StepMeter

MAX_NAMED_IMAGES = 8


def step_logged(meter: StepMeter, epoch: int, step: int, batch: int, lr: float, grad_norm: torch.Tensor) -> StepLogged:
    """Means over the steps since the last such event, which all ranks must ask for."""
    losses, ranks = meter.read_log()
    uses = [None if math.isnan(rank.device_use) else rank.device_use for rank in ranks]
    return StepLogged(
        epoch=epoch,
        step=step,
        losses=losses,
        grad_norm=float(grad_norm),
        lr=lr,
        images_per_s=batch / ranks[0].step_s,
        rank_step_s=[rank.step_s for rank in ranks],
        rank_data_wait_s=[rank.data_wait_s for rank in ranks],
        rank_forward_s=[rank.forward_s for rank in ranks],
        rank_mem_bytes=[int(rank.mem_bytes) for rank in ranks],
        rank_device_use=[] if uses.count(None) == len(uses) else uses,
    )


def epoch_ended(meter: StepMeter, epoch: int, step: int, batch: int, lr: float) -> EpochEnded:
    """Means over an epoch; its speed is that of this attempt's steps."""
    losses, seconds = meter.read_epoch()
    return EpochEnded(
        epoch=epoch,
        step=step,
        losses=losses,
        lr=lr,
        images_per_s=meter.num_steps_here * batch / seconds,
        seconds=seconds,
    )


def evaluated(
    result: EvaluationResult, names: Sequence[str], epoch: int, step: int, seconds: float, *, is_best: bool
) -> Evaluated:
    """The event that tells of an evaluation."""
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


def images_of_a_share(paths: Sequence[Path]) -> str:
    """The first few of `paths` for a sentence."""
    named = ", ".join(str(path) for path in paths[:MAX_NAMED_IMAGES])
    more = len(paths) - MAX_NAMED_IMAGES
    return f"{named} and {more} more" if more > 0 else named
