"""The time that a rank computes before it waits for the others, which shows a slow GPU."""

import math

import pynvml
import pytest
import torch
from torch import nn

from hpc_yolo.models.sync_batchnorm import GlobalBatchNorm2d
from hpc_yolo.training.meter import device_use
from hpc_yolo.training.stopwatch import ForwardStopwatch


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Slow(nn.Module):
    """Layer that advances the clock by `seconds`."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.clock.now_s += self.seconds
        return images


@pytest.mark.parametrize(
    ("middle", "expected_s"),
    [(nn.BatchNorm2d(1), 3.0), (GlobalBatchNorm2d(1).eval(), 1.0), (nn.SyncBatchNorm(1).eval(), 1.0)],
    ids=["plain", "global batch norm", "sync batch norm"],
)
def test_stopwatch_stops_at_first_synchronisation(middle, expected_s):
    """From there on the fast ranks wait for the slow one, and all have the same time."""
    clock = Clock()
    model = nn.Sequential(Slow(clock, 1.0), middle, Slow(clock, 2.0))
    stopwatch = ForwardStopwatch(model, torch.device("cpu"), clock)
    for _ in range(2):
        model(torch.zeros(1, 1, 2, 2))
        clock.now_s += 10.0  # the loss, the backward pass
    assert stopwatch.read() == pytest.approx(2 * expected_s)
    assert stopwatch.read() == 0.0


def test_eval_pass_is_not_measured():
    clock = Clock()
    model = nn.Sequential(Slow(clock, 1.0)).eval()
    stopwatch = ForwardStopwatch(model, torch.device("cpu"), clock)
    model(torch.zeros(1))
    assert stopwatch.read() == 0.0


@pytest.mark.parametrize(
    ("utilization", "expected"), [(42, 0.42), (pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED), None)]
)
def test_unsupported_gpu_utilization_is_nan(monkeypatch, utilization, expected):
    """The driver does not report it for a slice of a GPU; that must not fail the run."""

    def read(_device):
        if isinstance(utilization, Exception):
            raise utilization
        return utilization

    monkeypatch.setattr(torch.cuda, "utilization", read)
    found = device_use(torch.device("cuda", 0))
    assert math.isnan(found) if expected is None else found == expected
    assert math.isnan(device_use(torch.device("cpu")))
