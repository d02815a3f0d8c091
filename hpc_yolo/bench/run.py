"""The list of benchmarks, and the record of those that were run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import hpc_yolo
from hpc_yolo.bench.machine import source_commit, this_machine
from hpc_yolo.bench.records import BenchRecord, BenchResult
from hpc_yolo.bench.rounds import Rounds


class Benchmark(NamedTuple):
    """Module and function of a benchmark, its usual number of rounds, and a sentence."""

    module: str
    function: str
    rounds: int
    sentence: str


BENCHMARKS = {
    "data": Benchmark("data", "bench_data", 7, "Training and validation images a second of one core."),
    "step": Benchmark("step", "bench_step", 15, "A whole training step over the bare model."),
    "loss": Benchmark("step", "bench_loss", 15, "The loss, forward and backward."),
    "val": Benchmark("val", "bench_val", 7, "NMS, matching and average precision."),
    "checkpoint": Benchmark("checkpoint", "bench_checkpoint", 5, "Steps with a save, a save on disk, a load."),
    "epochs": Benchmark("epochs", "bench_epochs", 3, "Epochs with evaluations and saves over those without."),
    "startup": Benchmark("commands", "bench_startup", 9, "Start of commands, and imports of a task."),
    "submit": Benchmark("commands", "bench_submit", 9, "Dry runs: Slurm, site profile, local, a sweep of 1,000."),
    "status": Benchmark("status", "bench_status", 7, "Journals of many runs read, refreshed and drawn."),
}
QUICK_ROUNDS = 3


def run_benchmark(name: str, rounds: Rounds) -> list[BenchResult]:
    """Run one benchmark."""
    listed = BENCHMARKS[name]
    found: list[BenchResult] = getattr(import_module(f"hpc_yolo.bench.{listed.module}"), listed.function)(rounds)
    return found


def make_record(results: Sequence[BenchResult], *, is_quick: bool) -> BenchRecord:
    """Return the record of `results`, measured now on this machine."""
    return BenchRecord(
        commit=source_commit(),
        version=hpc_yolo.__version__,
        time=time.time(),
        is_quick=is_quick,
        machine=this_machine(),
        results=list(results),
    )
