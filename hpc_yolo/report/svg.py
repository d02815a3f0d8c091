"""Charts as SVG text: no script, no font, no colour of its own; the page's style has those."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hpc_yolo.plots.chart import Chart, tick_text

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 40
NUM_COLOURS = 10
CELL = 10


def chart_svg(chart: Chart) -> str:
    """The chart without its title and legend."""
    x_axis, y_axis = chart.x_axis, chart.y_axis

    def x_of(value: float) -> float:
        return LEFT + x_axis.share(value) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - y_axis.share(value) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    for tick in y_axis.ticks:
        y = f"{y_of(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{tick_text(tick, y_axis)}</text>')
    for tick in x_axis.ticks:
        text = tick_text(tick, x_axis)
        parts.append(f'<text x="{x_of(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(chart.x_label)}</text>')
    for mark in chart.marks:
        x = f"{x_of(mark):.1f}"
        ends = f'x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
        parts.append(f'<line class="mark" {ends}><title>another start</title></line>')
    for line in chart.lines:
        points = [(x_of(x), y_of(y)) for x, y in zip(line.xs, line.ys, strict=True)]
        colour = f"c{line.colour % NUM_COLOURS}"
        if len(points) == 1:
            parts.append(f'<circle class="dot {colour}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3.5"/>')
        elif points:
            words = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            kind = "curve" if line.is_main else "curve thin"
            parts.append(
                f'<polyline class="{kind} {colour}" points="{words}"><title>{escape(line.name)}</title></polyline>'
            )
    parts.append(f'<path class="axis" d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/></svg>')
    return "".join(parts)


def map_svg(counts: Sequence[Sequence[int]], title: str, *, from_bottom: bool = False) -> str:
    """A map of counts, row by row from the top, or from the bottom; the more, the denser."""
    rows = list(reversed(counts)) if from_bottom else list(counts)
    most = max((count for row in rows for count in row), default=0)
    side = CELL * max(len(rows), 1)
    parts = [f'<svg class="map" viewBox="0 0 {side} {side}" role="img" aria-label="{escape(title)}">']
    for y, row in enumerate(rows):
        for x, count in enumerate(row):
            if count:
                share = (count / most) ** 0.5
                parts.append(
                    f'<rect x="{x * CELL}" y="{y * CELL}" width="{CELL}" height="{CELL}" opacity="{share:.2f}"/>'
                )
    parts.append(f'<path class="axis" d="M0,0H{side}V{side}H0Z"/></svg>')
    return "".join(parts)
