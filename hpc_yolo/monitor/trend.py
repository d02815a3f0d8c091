"""Series of values in bounded memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

TREND_POINTS = 64


class Trend:
    """A curve over steps in a bounded number of points: the newest of each interval of equally many steps."""

    def __init__(self, max_points: int = TREND_POINTS) -> None:
        self._max_points = max_points
        self._interval = 1
        self.steps: list[int] = []
        self.values: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Add the newest point, and remove those from `step` on: a lost attempt made them, and they are made again."""
        if self.steps:
            index = bisect_left(self.steps, step)
            if index == len(self.steps) and self.steps[-1] // self._interval == step // self._interval:
                index -= 1
            del self.steps[index:], self.values[index:]
        self.steps.append(step)
        self.values.append(value)
        while len(self.steps) > self._max_points:
            self._interval *= 2
            newest = {step // self._interval: index for index, step in enumerate(self.steps)}
            self.steps = [self.steps[index] for index in newest.values()]
            self.values = [self.values[index] for index in newest.values()]


def resampled(trend: Trend, num_points: int) -> Sequence[float]:
    """Return `trend` at evenly spaced steps: the newest value at each; all points where it has no more."""
    if len(trend.steps) <= num_points:
        return trend.values
    first, last = trend.steps[0], trend.steps[-1]
    wanted = (first + (last - first) * number / (num_points - 1) for number in range(num_points))
    return [trend.values[min(bisect_left(trend.steps, step), len(trend.values) - 1)] for step in wanted]


def median(values: Sequence[float]) -> float:
    """Return the middle of `values`, the lower one of two; 0 for none."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0
