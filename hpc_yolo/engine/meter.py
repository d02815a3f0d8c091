"""Figures of the steps between two log lines and of an epoch, kept on the device until somebody asks."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch

from hpc_yolo.distributed import World


class StepMeter:
    """Sums loss items of an epoch, and times steps and waits for data since the last log line.

    `epoch_items` is (3,): box, obj, cls summed over the steps of this epoch on this rank.
    """

    def __init__(self, world: World, clock: Callable[[], float] = time.perf_counter) -> None:
        self._world = world
        self._clock = clock
        self.epoch_items = torch.zeros(3, dtype=torch.float64, device=world.device)
        self._epoch_steps = self._steps_before = 0
        self._log_items = torch.zeros(3, dtype=torch.float64, device=world.device)
        self._log_steps = 0
        self._data_wait_s = 0.0
        self._epoch_start_s = self._log_start_s = clock()

    def start_epoch(self, items: list[float], steps_done: int) -> None:
        """Begin an epoch, or go on with one of which `steps_done` steps summed to `items` on all ranks together."""
        own_part = [item / self._world.size for item in items]
        self.epoch_items = torch.tensor(own_part, dtype=torch.float64, device=self._world.device)
        self._epoch_steps = self._steps_before = steps_done
        self._epoch_start_s = self._log_start_s = self._clock()
        self._log_items.zero_()
        self._log_steps = 0
        self._data_wait_s = 0.0

    def waited_for_data(self, seconds: float) -> None:
        self._data_wait_s += seconds

    def add(self, items: torch.Tensor) -> None:
        """Count one step with this rank's loss `items` (3,)."""
        self._log_items += items
        self.epoch_items += items
        self._log_steps += 1
        self._epoch_steps += 1

    def read_log(self) -> tuple[list[float], float, list[list[float]]]:
        """(mean items of the global batches since the last call, seconds a step, per rank figures); starts anew.

        Per rank: seconds a step, of those waiting for data, bytes of memory.
        """
        items = self._world.sum_over_ranks(self._log_items) / max(self._log_steps, 1)
        means = [float(item) for item in items.cpu()]
        now_s = self._clock()
        step_s = (now_s - self._log_start_s) / max(self._log_steps, 1)
        figures = [step_s, self._data_wait_s / max(self._log_steps, 1), float(memory_bytes(self._world.device))]
        self._log_items.zero_()
        self._log_steps, self._data_wait_s, self._log_start_s = 0, 0.0, now_s
        return means, step_s, self._world.gather_figures(figures)

    def epoch_sums(self) -> list[float]:
        """Loss items of this epoch, summed over steps and ranks."""
        return [float(item) for item in self._world.sum_over_ranks(self.epoch_items).cpu()]

    def read_epoch(self) -> tuple[list[float], int, float]:
        """(mean items of this epoch's global batches, steps and seconds of this attempt's part of it)."""
        means = [item / max(self._epoch_steps, 1) for item in self.epoch_sums()]
        return means, self._epoch_steps - self._steps_before, self._clock() - self._epoch_start_s


def memory_bytes(device: torch.device) -> int:
    """The most memory that this task has used: reserved on its GPU, or resident where it has none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
