"""Time that the model of a rank computes before it waits for the other ranks.

It is the only time that distinguishes a slow GPU from those that wait for it: every other part of a step takes all
ranks equally long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from hpc_yolo.models.sync_batchnorm import GlobalBatchNorm2d


class ForwardStopwatch:
    """Measures a model's training passes up to their end, or to its first layer that sums over ranks.

    On a GPU the events go into its own queue; only `read` waits for them.
    """

    def __init__(self, model: nn.Module, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._started: float | torch.cuda.Event | None = None
        self._seconds = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self._stop)
        if (first := next(_summing_layers(model), None)) is not None:
            first.register_forward_pre_hook(self._stop)

    def read(self) -> float:
        """Return the seconds of all passes since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        for start, end in self._marks:
            end.synchronize()
            seconds += start.elapsed_time(end) / 1000  # from milliseconds
        self._marks = []
        return seconds

    def _start(self, module: nn.Module, *_: object) -> None:
        if not module.training:
            return
        if self._device.type == "cuda":
            self._started = self._mark()
        else:
            self._started = self._clock()

    def _stop(self, *_: object) -> None:
        if isinstance(self._started, float):
            self._seconds += self._clock() - self._started
        elif self._started is not None:
            self._marks.append((self._started, self._mark()))
        self._started = None

    def _mark(self) -> torch.cuda.Event:
        mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        mark.record(torch.cuda.current_stream(self._device))
        return mark


def _summing_layers(model: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in model.modules() if isinstance(layer, (GlobalBatchNorm2d, nn.SyncBatchNorm)))
