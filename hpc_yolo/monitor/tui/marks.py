"""Numbers as marks and short words: trend lines, plots of a few rows, bars, durations. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

STEPS = "▁▂▃▄▅▆▇█"
BAR_STEPS = "▏▎▍▌▋▊▉█"
UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def short_time(seconds: float) -> str:
    """A duration in two units at most: "42 s", "3 min 5 s", "2 h 10 min", "4 d 1 h"."""
    whole_s = max(0, round(seconds))
    for size_s, name, small_s, small_name in UNITS:
        if whole_s >= size_s:
            rest = whole_s % size_s // small_s
            return f"{whole_s // size_s} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole_s} s"


def short_bytes(size_bytes: float) -> str:
    """An amount of memory with a decimal: "7.9 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def median(values: Sequence[float]) -> float:
    """The middle of `values`, the lower one of two; 0 for none."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0


def trend_line(values: Sequence[float]) -> str:
    """One letter a value, from its lowest to its highest; "" for none."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if high <= low:
        return STEPS[0] * len(values)
    return "".join(STEPS[round((value - low) / (high - low) * (len(STEPS) - 1))] for value in values)


def bar(share: float, width: int) -> str:
    """`width` letters, of which `share` (0 to 1) are full, to an eighth of a letter."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return (BAR_STEPS[7] * full + (BAR_STEPS[rest - 1] if rest else "")).ljust(width)


def plot(steps: Sequence[int], values: Sequence[float], width: int, height: int) -> list[str]:
    """A curve of `height` lines of `width` letters; each column holds the mean of its values, or of those before it."""
    columns = _columns(steps, values, width)
    known = [value for value in columns if value is not None]
    if not known:
        return [" " * width] * height
    low, high = min(known), max(known)
    span = high - low or 1.0
    levels = [None if value is None else 1 + round((value - low) / span * (height * 8 - 1)) for value in columns]
    return ["".join(_cell(level, row) for level in levels) for row in reversed(range(height))]


def _cell(level: int | None, row: int) -> str:
    """What a column filled to `level` eighths shows in `row`, from 0 at the bottom."""
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


def printable(words: str) -> str:
    """`words` as one line that cannot steer a terminal: what ranks and Slurm say is shown, never obeyed."""
    return "".join(letter if letter.isprintable() else " " for letter in words)
