"""Charts as SVG in the colours of the page, which are variables of its style: it has others for its dark scheme."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from hpc_yolo.plots.chart import COLOURS, INKS, Chart
from hpc_yolo.plots.figures import chart_svg, confusion_svg, heat_map_svg
from hpc_yolo.plots.results import Results

_VARIABLES = INKS | {f"c{number}": colour for number, colour in enumerate(COLOURS)}


def chart_markup(chart: Chart) -> Markup:
    """Return the chart as SVG in the colours of the page."""
    return themed(chart_svg(chart))


def heat_map_markup(counts: Sequence[Sequence[int]], title: str, is_upwards: bool) -> Markup:
    """Return a map of counts as SVG in the colours of the page."""
    return themed(heat_map_svg(title, counts, is_upwards=is_upwards))


def confusion_markup(results: Results) -> Markup:
    """Return the confusion matrix as SVG in the colours of the page."""
    size = len(results.names) + 1
    counts = [[0] * size for _ in range(size)]
    for predicted, labelled, count in results.confusions:
        counts[predicted][labelled] = count
    return themed(confusion_svg(counts, results.names))


def themed(svg: str) -> Markup:
    """Return an SVG whose colours are variables of the page's style, which has others for its dark scheme."""
    for name, colour in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)
