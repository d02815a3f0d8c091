"""Metrics of the steps between two log lines and of an epoch, kept on the device until they are read."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from hpc_yolo.checkpoint.state import StateDict
from hpc_yolo.distributed import World
from hpc_yolo.runs.metrics import Losses
from hpc_yolo.training.stopwatch import ForwardStopwatch


class RankTimes(NamedTuple):
    """Means of one rank over the steps since the last log line; times are seconds of each step.

    Attributes:
        batches_ready: batches that the loader workers had ready when one was asked for: 0 where the step waits for
            them, more where they wait for the step.
        forward_s: computing before it waited for the others.
        device_use: fraction of the last moments in which its GPU was busy, in [0, 1]; NaN without one.
    """

    step_s: float
    data_wait_s: float
    batches_ready: float
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
        self._data_wait_s, self._batches_ready = 0.0, 0
        self._epoch_start_s = self._log_start_s = clock()

    def start_clock(self) -> None:
        """Start to measure times; what was before does not count."""
        self._epoch_start_s = self._log_start_s = self._clock()
        self._timed_steps, self._data_wait_s, self._batches_ready = 0, 0.0, 0
        self._forward.read()

    def start_epoch(self) -> None:
        """Start an epoch."""
        self._epoch_items.zero_()
        self._log_items.zero_()
        self._epoch_steps = self._steps_before = self._log_steps = 0
        self.start_clock()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of every rank, for the epoch and since the last log line; all ranks must call this."""
        sums = self._world.gather_numbers(torch.cat([self._epoch_items, self._log_items]).tolist())
        return {"rank_sums": sums, "epoch_steps": self._epoch_steps, "log_steps": self._log_steps}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Continue an epoch. With another number of ranks each gets an equal part of the sums."""
        rank_sums = torch.tensor(state_dict["rank_sums"], dtype=torch.float64)
        if len(rank_sums) == self._world.size:
            sums = rank_sums[self._world.rank]
        else:
            sums = rank_sums.sum(dim=0) / self._world.size
        epoch_items, log_items = torch.split(sums.to(self._world.device), len(self._names))
        self._epoch_items, self._log_items = epoch_items.clone(), log_items.clone()
        self._epoch_steps = self._steps_before = state_dict["epoch_steps"]
        self._log_steps = state_dict["log_steps"]
        self.start_clock()

    @property
    def num_steps_here(self) -> int:
        """Number of steps of this epoch in this attempt."""
        return self._epoch_steps - self._steps_before

    def waited_for_data(self, seconds: float, batches_ready: int) -> None:
        """Add `seconds` of waiting for a batch, and how many were ready when the wait began."""
        self._data_wait_s += seconds
        self._batches_ready += batches_ready

    def add(self, terms: torch.Tensor | None) -> None:
        """Count one step with this rank's loss `terms`; None for a step that is left out."""
        if terms is not None:
            self._log_items += terms
            self._epoch_items += terms
        self._log_steps += 1
        self._timed_steps += 1
        self._epoch_steps += 1

    def read_log(self) -> tuple[Losses, list[RankTimes]]:
        """Return (mean loss terms of the global batches since the last log line, times of every rank), and reset both.

        Times are of this attempt's steps alone.
        """
        means = self._means(self._log_items, self._log_steps)
        now_s = self._clock()
        num_steps, device = max(self._timed_steps, 1), self._world.device
        own = RankTimes(
            step_s=(now_s - self._log_start_s) / num_steps,
            data_wait_s=self._data_wait_s / num_steps,
            batches_ready=self._batches_ready / num_steps,
            forward_s=self._forward.read() / num_steps,
            mem_bytes=float(memory_bytes(device)),
            device_use=device_use(device),
        )
        self._log_items.zero_()
        self._log_steps, self._log_start_s = 0, now_s
        self._timed_steps, self._data_wait_s, self._batches_ready = 0, 0.0, 0
        return means, [RankTimes(*row) for row in self._world.gather_numbers(list(own))]

    def read_epoch(self) -> tuple[Losses, float]:
        """Return (mean loss terms of this epoch's global batches, seconds of this attempt's part of it)."""
        return self._means(self._epoch_items, self._epoch_steps), self._clock() - self._epoch_start_s

    def _means(self, sums: torch.Tensor, num_steps: int) -> Losses:
        means = self._world.sum_over_ranks(sums) / max(num_steps, 1)
        return dict(zip(self._names, means.tolist(), strict=True))


def memory_bytes(device: torch.device) -> int:
    """Return the most memory that this task has used: reserved on its GPU, or resident where it has none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_use(device: torch.device) -> float:
    """Return the fraction of the last sixth of a second to a second in which the GPU was busy, as nvidia-smi shows.

    NaN on CPUs, and on a GPU whose driver does not report it.
    """
    if device.type != "cuda":
        return math.nan
    from pynvml import NVMLError

    try:
        return torch.cuda.utilization(device) / 100
    except (NVMLError, RuntimeError):
        return math.nan
