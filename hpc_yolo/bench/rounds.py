"""Timing of several pieces of work in turns, so that other load on the machine affects each alike."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hpc_yolo.bench.records import LEAST_S, BenchResult, Timing

Clock = Literal["cpu", "wall"]
OnRound = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Work:
    """A piece of work, what it does in a round (`amount` of `unit`s), and its name."""

    name: str
    run: Callable[[], object]
    amount: float = 1
    unit: str = "call"


@dataclass(frozen=True)
class Rounds:
    """How often and how much is measured.

    Attributes:
        number: of rounds that count; one more, the first, warms up.
        is_quick: with less work in each.
        on_round: called with (name of the benchmark, rounds done, all rounds).
    """

    number: int
    is_quick: bool = False
    on_round: OnRound = lambda _bench, _done, _total: None

    def amount(self, full: int, quick: int) -> int:
        """Return the amount of work in a round."""
        return quick if self.is_quick else full


def measure(bench: str, works: Sequence[Work], reference: Work, rounds: Rounds, clock: Clock = "cpu") -> BenchResult:
    """Run the reference, all works and the reference again in each round; return the times of all but the first."""
    read_s = cpu_s if clock == "cpu" else time.perf_counter
    columns: list[list[float]] = [[] for _ in range(len(works) + 2)]
    for number in range(rounds.number + 1):
        for column, work in zip(columns, (reference, *works, reference), strict=True):
            started_s = read_s()
            work.run()
            column.append(max(read_s() - started_s, LEAST_S))
        rounds.on_round(bench, number + 1, rounds.number + 1)
    first, *timed, again = (column[1:] for column in columns)
    timings = [
        Timing(name=work.name, amount=work.amount, unit=work.unit, seconds=seconds)
        for work, seconds in zip(works, timed, strict=True)
    ]
    return BenchResult(
        bench=bench, clock=clock, reference=reference.name, reference_s=first, again_s=again, timings=timings
    )


def cpu_s() -> float:
    """Return the processor time of this process with all its threads, and of its child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
