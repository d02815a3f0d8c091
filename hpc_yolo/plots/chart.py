"""The values of a chart: lines over one axis, and the colours of charts. `plots/figures.py` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = (
    "#2769b0", "#d9583b", "#22863a", "#b08800", "#1aa5c4", "#9c2f78", "#e0812a", "#00897b", "#6d4fc2", "#7c7c2b",
)  # fmt: skip
INK, SOFT, EDGE, ACCENT = "#1c2430", "#5b6675", "#dde1e7", COLOURS[0]
INKS = {"ink": INK, "soft": SOFT, "edge": EDGE}
CONFUSION_CAPTION = "Rows: predicted; columns: labelled; fractions of a column."
MAX_NUMBERED = 30  # classes of a confusion matrix whose cells hold numbers
MAX_POINTS = 400  # of a line; more cannot be distinguished


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        colour: index into the palette of charts, modulo its size.
        is_main: draw it thick.
    """

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    colour: int = 0
    is_main: bool = True


@dataclass(frozen=True)
class Chart:
    """Lines over one axis.

    Attributes:
        x_bounds: None: from 0 to the end of the longest line.
        y_bounds: a bound that is None follows from the lines.
        restarts: x of later attempts, drawn as dashed lines.
    """

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_bounds: tuple[float, float] | None = None
    y_bounds: tuple[float | None, float | None] = (None, None)
    restarts: tuple[float, ...] = ()


def thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return at most `MAX_POINTS` points: means of equally many neighbours."""
    size = -(-len(xs) // MAX_POINTS)
    if size <= 1:
        return tuple(xs), tuple(ys)
    groups = [slice(first, first + size) for first in range(0, len(xs), size)]
    return tuple(_mean(xs[group]) for group in groups), tuple(_mean(ys[group]) for group in groups)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
