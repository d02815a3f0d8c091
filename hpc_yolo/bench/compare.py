"""Comparison of two records of benchmarks: what has become slower or faster beyond the noise of both."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from hpc_yolo.bench.records import BenchRecord, BenchResult, Timing, middle_half

LEAST_CHANGE = 0.05  # smaller ones come from the layout of memory and code, which noise within a run does not contain


@dataclass(frozen=True)
class Change:
    """The change of one timing from a record to another.

    Attributes:
        before, after: median of the time over that of the reference.
        noise: change that the noise of both records explains, as a fraction of `before`.
        is_outside: the middle halves of the rounds of both do not overlap.
    """

    bench: str
    name: str
    before: float
    after: float
    noise: float
    is_outside: bool

    @property
    def fraction(self) -> float:
        """Change of the time as a fraction of `before`: 0.1 takes a tenth longer."""
        return self.after / self.before - 1

    @property
    def is_real(self) -> bool:
        """True if the change is outside the noise of both records."""
        return self.is_outside and abs(self.fraction) > max(self.noise, LEAST_CHANGE)

    @property
    def outcome(self) -> str:
        """Outcome: slower, faster, or same within the noise."""
        if not self.is_real:
            return "same"
        return "slower" if self.fraction > 0 else "faster"


def compare(before: BenchRecord, after: BenchRecord) -> list[Change]:
    """Return the change of each timing that both records have with the same reference and amount of work."""
    earlier = {key: (result, timing) for key, result, timing in _timings(before)}
    changes = []
    for key, result, timing in _timings(after):
        if key in earlier:
            changes.append(_change(*earlier[key], result, timing))
    return changes


def missing(before: BenchRecord, after: BenchRecord) -> list[str]:
    """Return the timings of one record that the other has not, or has with other work."""
    keys = [{key: f"{key[0]}: {key[1]}" for key, _, _ in _timings(record)} for record in (before, after)]
    return [text for key, text in {**keys[0], **keys[1]}.items() if not (key in keys[0] and key in keys[1])]


def _timings(record: BenchRecord) -> Iterator[tuple[tuple[object, ...], BenchResult, Timing]]:
    for result in record.results:
        for timing in result.timings:
            key = (result.bench, timing.name, timing.amount, timing.unit, result.reference, result.clock)
            yield key, result, timing


def _change(first: BenchResult, old: Timing, second: BenchResult, new: Timing) -> Change:
    before, after = first.ratios(old), second.ratios(new)
    (old_low, old_high), (new_low, new_high) = middle_half(before), middle_half(after)
    return Change(
        bench=second.bench,
        name=new.name,
        before=statistics.median(before),
        after=statistics.median(after),
        noise=max(first.noise, second.noise),
        is_outside=new_low > old_high or new_high < old_low,
    )
