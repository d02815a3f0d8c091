"""Charts of a sweep as SVG: the values of all trials as lines over parallel axes, and a metric over each field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from hpc_yolo.plots.chart import ACCENT, EDGE, INK, SOFT
from hpc_yolo.plots.figures import MARGINS, NO_TITLE, TILE, add_axes, new_figure, styled, svg_of

MAX_NAMED = 12  # values of an axis that have their names
LOG_SPAN = 20.0  # ratio of the highest to the lowest value from which an axis is logarithmic
AXIS_WIDTH = 130.0
TOP_FRACTION = 0.1


@dataclass(frozen=True)
class Scale:
    """The positions of the values of a field on its axis, in [0, 1], and the named ones among them."""

    name: str
    positions: dict[Any, float]
    ticks: list[tuple[float, str]]


def scale_of(name: str, values: Sequence[Any]) -> Scale:
    """Return the scale of `values`: linear or logarithmic for numbers, else evenly in the order of their first use."""
    known = list(dict.fromkeys(values))
    is_numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    if is_numeric and len(known) > 1:
        low, high = min(known), max(known)
        is_log = low > 0 and high / low >= LOG_SPAN
        place = math.log if is_log else float
        span = place(high) - place(low)
        positions = {value: (place(value) - place(low)) / span for value in known}
        named = sorted(known) if len(known) <= MAX_NAMED else [low, high]
    else:
        positions = {value: (index + 0.5) / len(known) for index, value in enumerate(known)}
        named = known[:MAX_NAMED]
    return Scale(name, positions, [(positions[value], _text(value)) for value in named])


@styled
def parallel_svg(scales: Sequence[Scale], trials: Sequence[Sequence[Any]]) -> str:
    """Return a line for each trial over the axes of `scales`.

    Args:
        trials: the value of each trial on each axis, the best trial first.
    """
    tile = (AXIS_WIDTH * max(len(scales), 3), TILE[1] * 1.3)
    figure = new_figure(1, 1, tile=tile)
    axes = add_axes(figure, 0, 0, tile=tile, margins=(60.0, 60.0, 24.0, 10.0))
    axes.set_axis_off()
    axes.set_xlim(0, max(len(scales) - 1, 1))
    axes.set_ylim(-0.04, 1.04)
    num_top = max(1, round(len(trials) * TOP_FRACTION))
    for rank, trial in reversed(list(enumerate(trials))):
        heights = [scale.positions[value] for scale, value in zip(scales, trial, strict=True)]
        is_top = rank < num_top
        style: dict[str, Any] = {"color": SOFT, "linewidth": 0.8, "alpha": 0.35}
        style = {"color": ACCENT, "linewidth": 1.8} if is_top else style
        axes.plot(range(len(scales)), heights, clip_on=False, **style)
    for index, scale in enumerate(scales):
        axes.axvline(index, color=EDGE, linewidth=1.2)
        axes.text(index, 1.09, scale.name, ha="center", color=INK)
        for height, text in scale.ticks:
            axes.text(index + 0.02, height, text, va="center", fontsize=7.5, color=SOFT)
    return svg_of(figure, "values and metric of each trial")


@styled
def scatter_svg(scale: Scale, values: Sequence[Any], metric: Sequence[float]) -> str:
    """Return the `metric` of each trial over its value of one field."""
    figure = new_figure(1, 1)
    axes: Axes = add_axes(figure, 0, 0, margins=(*MARGINS[:2], NO_TITLE, MARGINS[3]))
    axes.scatter([scale.positions[value] for value in values], metric, s=14, color=ACCENT, alpha=0.7, linewidths=0)
    axes.set_xlim(-0.05, 1.05)
    axes.set_xticks([position for position, _ in scale.ticks], [text for _, text in scale.ticks])
    return svg_of(figure, f"metric over {scale.name}")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.rpartition("/")[2]
