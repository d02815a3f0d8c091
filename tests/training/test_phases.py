"""Phases of the training loop: the wait for data is measured around the wait alone."""

import torch

from hpc_yolo.checkpoint import Position
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.distributed import World
from hpc_yolo.training.meter import StepMeter
from hpc_yolo.training.phases import Phases


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class SlowWatchdog:
    """A heartbeat that takes a minute."""

    def __init__(self, clock):
        self.clock = clock

    def heartbeat(self, *_):
        self.clock.now_s += 60


def test_wait_of_a_slow_loader_is_measured_and_nothing_else():
    clock = Clock()

    def slow_loader():
        for wait_s in (2.0, 0.0, 4.0):
            clock.now_s += wait_s
            yield object()
        clock.now_s += 1000  # the end of an epoch is no wait for a batch

    world = World(ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())
    meter = StepMeter(world, torch.nn.Identity(), ["box"], clock)
    ready = iter([0, 2, 1])
    phases = Phases(SlowWatchdog(clock), Position(), clock)
    for _ in phases.training(slow_loader(), lambda wait_s: meter.waited_for_data(wait_s, next(ready))):
        clock.now_s += 10  # the step
        meter.add(torch.zeros(1))
    _, (times,) = meter.read_log()
    assert (times.data_wait_s, times.batches_ready) == (2.0, 1.0)
    _, (times,) = meter.read_log()
    assert (times.data_wait_s, times.batches_ready) == (0.0, 0.0)
