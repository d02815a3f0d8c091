"""Numbers as block characters: trend lines, plots of a few rows, bars. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

STEPS = "▁▂▃▄▅▆▇█"
BAR_STEPS = "▏▎▍▌▋▊▉█"


def trend_line(values: Sequence[float]) -> str:
    """Return one letter a value, scaled from the lowest to the highest; "" for none."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if high <= low:
        return STEPS[0] * len(values)
    return "".join(STEPS[round((value - low) / (high - low) * (len(STEPS) - 1))] for value in values)


def bar(fraction: float, width: int) -> str:
    """Return `width` letters, of which `fraction` (0 to 1) are full, to an eighth of a letter."""
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return (BAR_STEPS[7] * full + (BAR_STEPS[rest - 1] if rest else "")).ljust(width)


def plot(steps: Sequence[int], values: Sequence[float], width: int, height: int) -> list[str]:
    """Return a curve of `height` lines of `width` letters.

    Each column shows the mean of its values; one without values repeats the column before it.
    """
    columns = _columns(steps, values, width)
    known = [value for value in columns if value is not None]
    if not known:
        return [" " * width] * height
    low, high = min(known), max(known)
    span = high - low or 1.0
    levels = [None if value is None else 1 + round((value - low) / span * (height * 8 - 1)) for value in columns]
    return ["".join(_cell(level, row) for level in levels) for row in reversed(range(height))]


def _cell(level: int | None, row: int) -> str:
    """Return the letter of a column filled to `level` eighths in `row`, from 0 at the bottom."""
    filled = 0 if level is None else level - 8 * row
    return " " if filled <= 0 else STEPS[min(filled, 8) - 1]


def _columns(steps: Sequence[int], values: Sequence[float], width: int) -> list[float | None]:
    gathered: list[list[float]] = [[] for _ in range(width)]
    if steps:
        first, span = steps[0], max(steps[-1] - steps[0], 1)
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value):
                gathered[min((step - first) * width // span, width - 1)].append(value)
    columns: list[float | None] = []
    for cell in gathered:
        columns.append(sum(cell) / len(cell) if cell else columns[-1] if columns else None)
    return columns


def one_line(text: str) -> str:
    """Return `text` as one line without control characters, which would steer the terminal."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)
