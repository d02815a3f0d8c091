"""Records of benchmarks for tests."""

from __future__ import annotations

from hpc_yolo.bench.records import BenchRecord, BenchResult, Machine, Timing

MACHINE = Machine(cpu="a", cpus=2, device="", python="3.11", torch="2", opencv="5")


def result(
    seconds: list[float],
    *,
    reference_s: list[float] | None = None,
    again_s: list[float] | None = None,
    bench: str = "data",
    name: str = "work",
    amount: float = 64,
) -> BenchResult:
    """Return the result of one work; a second of each reference unless given."""
    reference_s = reference_s or [1.0] * len(seconds)
    timing = Timing(name=name, amount=amount, unit="image", seconds=seconds)
    return BenchResult(
        bench=bench,
        clock="cpu",
        reference="plain",
        reference_s=reference_s,
        again_s=again_s or reference_s,
        timings=[timing],
    )


def record(*results: BenchResult, time: float = 1.0, commit: str = "abc", is_quick: bool = False) -> BenchRecord:
    """Return a record of `results`."""
    return BenchRecord(
        commit=commit, version="0.1", time=time, is_quick=is_quick, machine=MACHINE, results=list(results)
    )
