"""Time that a rank computes before it waits for the others: it shows which GPU holds up all of them."""

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
    """A layer that takes its seconds on the clock."""

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
def test_it_stops_where_ranks_first_meet(middle, expected_s):
    """From there on the fast ranks wait for the slow one, and all take equally long."""
    clock = Clock()
    network = nn.Sequential(Slow(clock, 1.0), middle, Slow(clock, 2.0))
    watch = ForwardStopwatch(network, torch.device("cpu"), clock)
    for _ in range(2):
        network(torch.zeros(1, 1, 2, 2))
        clock.now_s += 10.0  # the loss, the backward pass
    assert watch.read() == pytest.approx(2 * expected_s)
    assert watch.read() == 0.0


def test_a_pass_that_trains_nothing_is_not_counted():
    clock = Clock()
    network = nn.Sequential(Slow(clock, 1.0)).eval()
    watch = ForwardStopwatch(network, torch.device("cpu"), clock)
    network(torch.zeros(1))
    assert watch.read() == 0.0


@pytest.mark.parametrize(
    ("answer", "expected"), [(42, 0.42), (pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED), None)]
)
def test_how_busy_a_gpu_is_may_be_unknown(monkeypatch, answer, expected):
    """On a slice of a GPU the driver does not say; that must not end a run."""

    def utilization(_device):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    found = device_use(torch.device("cuda", 0))
    assert math.isnan(found) if expected is None else found == expected
    assert math.isnan(device_use(torch.device("cpu")))
