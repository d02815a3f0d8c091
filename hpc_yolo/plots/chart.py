"""A chart as numbers: lines over an axis, with ticks at round numbers. Who draws it, as SVG or PNG, follows this."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_POINTS = 400  # of a line; more cannot be told apart
MAX_TICKS = 5


@dataclass(frozen=True)
class Line:
    """One line. `colour`: which of the drawer's colours, from 0. `is_main`: drawn thick, where others are thin."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    colour: int = 0
    is_main: bool = True


@dataclass(frozen=True)
class Chart:
    """Lines over one axis. `marks`: places on the x axis that a person should see, such as restarts.

    The x axis begins at 0 and ends with the lines unless bounds are given; bounds of y that are None follow from them.
    """

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_bounds: tuple[float, float] | None = None
    y_bounds: tuple[float | None, float | None] = (None, None)
    marks: tuple[float, ...] = ()

    @property
    def x_axis(self) -> Axis:
        if self.x_bounds is not None:
            return make_axis([], *self.x_bounds)
        return make_axis((x for line in self.lines for x in line.xs), 0.0, exact=True)

    @property
    def y_axis(self) -> Axis:
        return make_axis((y for line in self.lines for y in line.ys), *self.y_bounds)


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with `ticks` in between."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`; what is beyond lies on the edge."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def make_axis(
    values: Iterable[float], low: float | None = None, high: float | None = None, *, exact: bool = False
) -> Axis:
    """An axis that holds all finite `values`.

    Args:
        low, high: its ends; from the values unless given.
        exact: let it end where the values do; else at a tick.
    """
    finite = [value for value in values if math.isfinite(value)]
    bottom = min(finite, default=0.0) if low is None else low
    top = max(finite, default=1.0) if high is None else high
    if top - bottom <= 1e-9 * max(abs(top), abs(bottom)):  # a level line is drawn in the middle
        spread = abs(top) * 0.1 or 1.0
        bottom, top = (bottom if low is not None else bottom - spread), top + spread
    step = tick_step(top - bottom)
    if not exact:
        bottom = bottom if low is not None else math.floor(bottom / step + 1e-9) * step
        top = top if high is not None else math.ceil(top / step - 1e-9) * step
    first = math.ceil(bottom / step - 1e-9)
    count = math.floor(top / step + 1e-9) - first + 1
    return Axis(bottom, top, tuple((first + number) * step for number in range(count)))


def tick_step(span: float) -> float:
    """The least of 1, 2, 5 times a power of ten of which no more than `MAX_TICKS` fit into `span`."""
    rough = span / MAX_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def tick_text(value: float, axis: Axis) -> str:
    """`value` with the decimals that tell the ticks of `axis` apart."""
    if value == 0:
        return "0"
    step = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else abs(value)
    if max(abs(axis.low), abs(axis.high)) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    if max(abs(axis.low), abs(axis.high)) >= 1e5:
        return f"{value / 1000:g}k"
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most `MAX_POINTS` points: means of equally many neighbours."""
    size = -(-len(xs) // MAX_POINTS)
    if size <= 1:
        return tuple(xs), tuple(ys)
    parts = [slice(start, start + size) for start in range(0, len(xs), size)]
    return tuple(_mean(xs[part]) for part in parts), tuple(_mean(ys[part]) for part in parts)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
