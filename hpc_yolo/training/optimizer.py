"""Parameter groups, optimiser and the schedule of learning rate, momentum and accumulation.

The schedule is a pure function of the step, so that a resumed run has nothing to restore. Source: YOLOv5 v7.0's recipe:
a nominal batch of 64 images, warm-up by step, then a factor that changes once an epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.training.postponed_compiler import postpone_compiler

NOMINAL_BATCH = 64
MIN_WARMUP_STEPS = 100


@dataclass(frozen=True)
class StepSettings:
    """Settings of one step: learning rates of biases and of all other parameters, momentum, batches a step."""

    lr_bias: float
    lr: float
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Schedule:
    """Learning rate and momentum over a whole training of `epochs` x `steps_per_epoch` global batches of `batch`.

    With `legacy_lr_schedule` an epoch after warm-up has the rate that the formula gives for the epoch before it.
    """

    hyp: Hyperparameters
    epochs: int
    steps_per_epoch: int
    batch: int
    cos_lr: bool = False
    legacy_lr_schedule: bool = False

    @property
    def accumulate(self) -> int:
        """Global batches per optimiser step after warm-up."""
        return max(round(NOMINAL_BATCH / self.batch), 1)

    @property
    def warmup_steps(self) -> int:
        """Number of steps of warm-up."""
        return max(round(self.hyp.warmup_epochs * self.steps_per_epoch), MIN_WARMUP_STEPS)

    @property
    def weight_decay(self) -> float:
        """The decay that an optimiser step over `accumulate` x `batch` images applies."""
        return self.hyp.weight_decay * self.batch * self.accumulate / NOMINAL_BATCH

    def lr_factor(self, epoch: int) -> float:
        """Return lr / lr0 in `epoch` (from 0): linear from 1 to lrf, or half a cosine."""
        progress = epoch / self.epochs
        if self.cos_lr:
            return (1 - math.cos(math.pi * progress)) / 2 * (self.hyp.lrf - 1) + 1
        return (1 - progress) * (1 - self.hyp.lrf) + self.hyp.lrf

    def at(self, step: int) -> StepSettings:
        """Return the settings of `step`, counted in global batches from the start of training."""
        epoch = step // self.steps_per_epoch
        if step > self.warmup_steps:
            is_late = self.legacy_lr_schedule and epoch > self.warmup_steps // self.steps_per_epoch
            lr = self.hyp.lr0 * self.lr_factor(epoch - is_late)
            return StepSettings(lr, lr, self.hyp.momentum, self.accumulate)
        target = self.hyp.lr0 * self.lr_factor(epoch)
        warmth = step / self.warmup_steps
        return StepSettings(
            lr_bias=_between(self.hyp.warmup_bias_lr, target, warmth),
            lr=_between(0.0, target, warmth),
            momentum=_between(self.hyp.warmup_momentum, self.hyp.momentum, warmth),
            accumulate=max(1, round(_between(1.0, NOMINAL_BATCH / self.batch, warmth))),
        )


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable parameters as (biases, weights that decay, weights of normalisation layers)."""
    biases, decayed, normalisation = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, nn.modules.batchnorm._NormBase):
                normalisation.append(parameter)
            else:
                decayed.append(parameter)
    return biases, decayed, normalisation


def build_optimizer(model: nn.Module, kind: str, schedule: Schedule) -> torch.optim.Optimizer:
    """Return the optimiser `kind` (SGD with Nesterov momentum, Adam or AdamW) over the three groups, biases first."""
    postpone_compiler()
    biases, decayed, normalisation = parameter_groups(model)
    groups = [
        {"params": biases, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": normalisation, "weight_decay": 0.0},
    ]
    hyp = schedule.hyp
    if kind == "SGD":
        return torch.optim.SGD(groups, lr=hyp.lr0, momentum=hyp.momentum, nesterov=True)
    optimizer_class = torch.optim.AdamW if kind == "AdamW" else torch.optim.Adam
    return optimizer_class(groups, lr=hyp.lr0, betas=(hyp.momentum, 0.999))


def apply_settings(optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    """Write the settings of a step into the optimiser's groups. Adam's first moment keeps its own momentum."""
    for group_index, group in enumerate(optimizer.param_groups):
        group["lr"] = settings.lr_bias if group_index == 0 else settings.lr
        if "momentum" in group:
            group["momentum"] = settings.momentum


def _between(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction
