"""Figures of the steps between two log lines and of an epoch, kept on the device until somebody asks."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from hpc_yolo.distributed import World
from hpc_yolo.runs.metrics import Losses
from hpc_yolo.training.stopwatch import ForwardStopwatch


class RankFigures(NamedTuple):
    """What one rank tells of the steps since the last log line; times are seconds of each step.

    Attributes:
        forward_s: computing before it met the others.
        device_use: share of the last moments in which its GPU did anything, in [0, 1]; not a number without one.
    """

    step_s: float
    data_wait_s: float
    forward_s: float
    mem_bytes: float
    device_use: float


class StepMeter:
    """Sums the loss terms of an epoch, and times steps and waits for data since the last log line.

    Args:
        names: of the loss terms. Sums are this rank's, (terms,) in their order.
    """

    def __init__(
        self, world: World, model: nn.Module, names: Sequence[str], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._world = world
        self._names = names
        self._forward = ForwardStopwatch(model, world.device, clock)
        self._clock = clock
        self._epoch_items = torch.zeros(len(names), dtype=torch.float64, device=world.device)
        self._epoch_steps = self._steps_before = 0
        self._log_items = torch.zeros(len(names), dtype=torch.float64, device=world.device)
        self._log_steps = self._timed_steps = 0
        self._data_wait_s = 0.0
        self._epoch_start_s = self._log_start_s = clock()

    def resume_epoch(self, rank_items: list[list[float]], epoch_steps: int, log_steps: int) -> None:
        """Go on with an epoch of which `epoch_steps` steps are done, `log_steps` of them since the last log line.

        Args:
            rank_items: what `rank_sums` gave then. With another number of ranks each takes an equal part.
        """
        if len(rank_items) == self._world.size:
            sums = torch.tensor(rank_items[self._world.rank], dtype=torch.float64)
        elif rank_items:
            sums = torch.tensor(rank_items, dtype=torch.float64).sum(dim=0) / self._world.size
        else:
            sums = torch.zeros(2 * len(self._names), dtype=torch.float64)
        epoch_items, log_items = torch.split(sums.to(self._world.device), len(self._names))
        self._epoch_items, self._log_items = epoch_items.clone(), log_items.clone()
        self._epoch_steps = self._steps_before = epoch_steps
        self._log_steps, self._timed_steps = log_steps, 0
        self._epoch_start_s = self._log_start_s = self._clock()
        self._data_wait_s = 0.0
        self._forward.read()  # what the steps before had is not of those to come

    @property
    def num_steps_here(self) -> int:
        """Steps of this epoch that this attempt did."""
        return self._epoch_steps - self._steps_before

    def waited_for_data(self, seconds: float) -> None:
        self._data_wait_s += seconds

    def add(self, terms: torch.Tensor | None) -> None:
        """Count one step with this rank's loss `terms`; None for a step that was passed over."""
        if terms is not None:
            self._log_items += terms
            self._epoch_items += terms
        self._log_steps += 1
        self._timed_steps += 1
        self._epoch_steps += 1

    def read_log(self) -> tuple[Losses, list[RankFigures]]:
        """(mean loss terms of the global batches since the last log line, figures of every rank); starts anew.

        Times are of this attempt's steps alone.
        """
        means = self._means(self._log_items, self._log_steps)
        now_s = self._clock()
        num_steps, device = max(self._timed_steps, 1), self._world.device
        own = RankFigures(
            step_s=(now_s - self._log_start_s) / num_steps,
            data_wait_s=self._data_wait_s / num_steps,
            forward_s=self._forward.read() / num_steps,
            mem_bytes=float(memory_bytes(device)),
            device_use=device_use(device),
        )
        self._log_items.zero_()
        self._log_steps, self._timed_steps, self._data_wait_s, self._log_start_s = 0, 0, 0.0, now_s
        return means, [RankFigures(*row) for row in self._world.gather_figures(list(own))]

    def rank_sums(self) -> list[list[float]]:
        """Return of each rank the loss terms summed over this epoch, then those since the last log line."""
        return self._world.gather_figures(torch.cat([self._epoch_items, self._log_items]).tolist())

    def read_epoch(self) -> tuple[Losses, float]:
        """(mean loss terms of this epoch's global batches, seconds of this attempt's part of it)."""
        return self._means(self._epoch_items, self._epoch_steps), self._clock() - self._epoch_start_s

    def _means(self, sums: torch.Tensor, num_steps: int) -> Losses:
        means = self._world.sum_over_ranks(sums) / max(num_steps, 1)
        return dict(zip(self._names, means.tolist(), strict=True))


def memory_bytes(device: torch.device) -> int:
    """The most memory that this task has used: reserved on its GPU, or resident where it has none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_use(device: torch.device) -> float:
    """Share of the last sixth of a second to a second in which the GPU did anything, in [0, 1], as nvidia-smi says.

    Not a number on CPUs, and on a GPU whose driver does not say.
    """
    if device.type != "cuda":
        return math.nan
    from pynvml import NVMLError

    try:
        return torch.cuda.utilization(device) / 100
    except (NVMLError, RuntimeError):
        return math.nan
