"""Figures of the steps between two log lines and of an epoch, kept on the device until somebody asks."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from hpc_yolo.distributed import World
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
    """Sums loss items of an epoch, and times steps and waits for data since the last log line.

    Items are (3,): box, obj, cls; their sums are this rank's.
    """

    def __init__(self, world: World, model: nn.Module, clock: Callable[[], float] = time.perf_counter) -> None:
        self._world = world
        self._forward = ForwardStopwatch(model, world.device, clock)
        self._clock = clock
        self._epoch_items = torch.zeros(3, dtype=torch.float64, device=world.device)
        self._epoch_steps = self._steps_before = 0
        self._log_items = torch.zeros(3, dtype=torch.float64, device=world.device)
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
            sums = torch.zeros(6, dtype=torch.float64)
        sums = sums.to(self._world.device)
        self._epoch_items, self._log_items = sums[:3].clone(), sums[3:].clone()
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

    def add(self, items: torch.Tensor) -> None:
        """Count one step with this rank's loss `items` (3,)."""
        self._log_items += items
        self._epoch_items += items
        self._log_steps += 1
        self._timed_steps += 1
        self._epoch_steps += 1

    def read_log(self) -> tuple[list[float], list[RankFigures]]:
        """(mean items of the global batches since the last log line, figures of every rank); starts anew.

        Times are of this attempt's steps alone.
        """
        items = self._world.sum_over_ranks(self._log_items) / max(self._log_steps, 1)
        means = [float(item) for item in items.cpu()]
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
        """Of each rank: items summed over this epoch, then those since the last log line (6 numbers)."""
        return self._world.gather_figures(torch.cat([self._epoch_items, self._log_items]).tolist())

    def read_epoch(self) -> tuple[list[float], float]:
        """(mean items of this epoch's global batches, seconds of this attempt's part of it)."""
        items = self._world.sum_over_ranks(self._epoch_items) / max(self._epoch_steps, 1)
        return [float(item) for item in items.cpu()], self._clock() - self._epoch_start_s


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
