"""Charts drawn by matplotlib: as PNG files for the run directory and, by the same functions, as SVG for the report.

Sizes are in points of 1/72 inch. An SVG holds no title and no legend: the page has those as text. Its colours are the
light ones of `COLOURS` and `INKS`; the report replaces them by variables of its style, for its dark scheme.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnchoredOffsetbox, DrawingArea, VPacker
from matplotlib.ticker import MaxNLocator

from hpc_yolo.core.files import write_atomic
from hpc_yolo.plots.chart import ACCENT, COLOURS, CONFUSION_CAPTION, EDGE, INK, MAX_NUMBERED, SOFT, Chart, Line
from hpc_yolo.plots.class_name import ClassName, room_for_names
from hpc_yolo.plots.labels import LabelStatistics

Counts = npt.NDArray[np.int64] | Sequence[Sequence[int]]

STYLE: dict[str, Any] = {
    **{"font.family": "DejaVu Sans", "font.size": 9.0, "axes.titlesize": 11.0, "axes.titlelocation": "left"},
    **{"text.color": INK, "axes.titlecolor": INK, "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT},
    **{"axes.edgecolor": SOFT, "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.axisbelow": True, "axes.grid": True, "axes.grid.axis": "y", "grid.color": EDGE, "grid.linewidth": 0.8},
    **{"axes.xmargin": 0.0, "axes.formatter.useoffset": False, "axes.formatter.limits": (-4, 5)},
    **{
        "axes.unicode_minus": True,
        "xtick.major.size": 0.0,
        "ytick.major.size": 0.0,
        "xtick.major.pad": 5.0,
        "lines.solid_joinstyle": "round",
    },
    # Text stays text, and the same figure gives the same bytes.
    **{"svg.fonttype": "none", "svg.hashsalt": "hpc-yolo", "text.parse_math": False},
}
DPI = 110  # of a PNG
POINTS_PER_INCH = 72
TILE = (330.0, 220.0)  # width and height of one chart
MARGINS = (42.0, 12.0, 26.0, 32.0)  # left, right, top, bottom
NO_TITLE = 16.0  # the top margin of an SVG: room for a power of ten
COLUMNS = 3
NAME_SIZE = 9.0
MAX_LEGEND_NAMES = 8
LEGEND_ROW, LEGEND_LINE = 11.0, 16.0
MAX_BARS = 30
MAX_LETTERS = 18
CELL, SMALL_CELL = 30.0, 10.0  # of a confusion matrix; small ones hold no number
MAX_NAMED_CLASSES = 200  # of a confusion matrix; more have numbers on its axes, and smaller cells
TOOLTIP = "tooltip="


# matplotlib's own defaults and `STYLE`, independent of the user's matplotlibrc.
styled = matplotlib.style.context(["default", STYLE])


@styled
def write_charts(path: Path, charts: Sequence[Chart]) -> None:
    """Draw `charts` as one PNG, two or three side by side.

    Raises:
        OSError: the file cannot be written.
    """
    columns = min(2 if len(charts) == 4 else COLUMNS, len(charts))
    figure = new_figure(columns, -(-len(charts) // columns))
    for number, chart in enumerate(charts):
        axes = add_axes(figure, number % columns, number // columns)
        axes.set_title(chart.title)
        draw_chart(axes, chart)
        draw_legend(axes, chart.lines)
    _write_png(path, figure)


@styled
def write_label_charts(path: Path, statistics: LabelStatistics) -> None:
    """Draw the objects of the training set by class, position and size, as one PNG.

    Raises:
        OSError: the file cannot be written.
    """
    train = statistics.train
    figure = new_figure(COLUMNS, 1)
    draw_bars(figure, "Objects by class", statistics.names, train.class_counts)
    for column, (title, counts, is_upwards) in enumerate(
        (
            ("Centres of objects on the image", train.centres, False),
            ("Height over width of objects, fractions of the image", train.sides, True),
        ),
        start=1,
    ):
        axes = add_axes(figure, column, 0, margins=(12.0, 12.0, 26.0, 12.0))
        axes.set_title(title, loc="center")
        draw_heat_map(axes, counts, is_upwards=is_upwards)
    _write_png(path, figure)


@styled
def write_confusion_chart(path: Path, counts: Counts, names: Sequence[str]) -> None:
    """Draw a confusion matrix (classes + 1, classes + 1) as a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    _write_png(path, confusion_figure(counts, names, CONFUSION_CAPTION))


@styled
def chart_svg(chart: Chart) -> str:
    """Return the chart as SVG."""
    figure = new_figure(1, 1)
    draw_chart(add_axes(figure, 0, 0, margins=(*MARGINS[:2], NO_TITLE, MARGINS[3])), chart)
    return svg_of(figure, chart.title)


@styled
def heat_map_svg(title: str, counts: Counts, *, is_upwards: bool = False) -> str:
    """Return a map of counts as SVG; see `draw_heat_map`."""
    figure = new_figure(1, 1, tile=(TILE[1], TILE[1]))
    draw_heat_map(add_axes(figure, 0, 0, tile=(TILE[1], TILE[1]), margins=(2.0,) * 4), counts, is_upwards=is_upwards)
    return svg_of(figure, title)


@styled
def confusion_svg(counts: Counts, names: Sequence[str]) -> str:
    """Return a confusion matrix as SVG."""
    return svg_of(confusion_figure(counts, names), "Confusion matrix")


def draw_chart(axes: Axes, chart: Chart) -> None:
    """Draw the lines of `chart`; a line of one point is a dot."""
    for x in chart.restarts:
        axes.axvline(x, color=SOFT, linestyle=(0, (3, 4)), linewidth=0.8, gid=f"{TOOLTIP}another attempt")
    for line in chart.lines:
        (drawn,) = axes.plot(line.xs, line.ys, color=colour_of(line), linewidth=1.6 if line.is_main else 0.8)
        is_dot = len(line.xs) == 1  # which may be on the edge
        drawn.set(marker="o" if is_dot else "", markersize=5, clip_on=not is_dot, gid=f"{TOOLTIP}{line.name}")
    axes.set_xlabel(chart.x_label)
    axes.set_xlim(chart.x_bounds or (0.0, max((x for line in chart.lines for x in line.xs), default=0.0) or 1.0))
    axes.set_ylim(*chart.y_bounds)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))


def draw_legend(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw the legend in the corner with the fewest points; one line needs no legend."""
    if len(lines) < 2:
        return
    named = sorted(lines, key=lambda line: not line.is_main)[:MAX_LEGEND_NAMES]
    names = tuple(line.name for line in named)
    width = LEGEND_LINE + 4 + room_for_names(names, MAX_LETTERS, NAME_SIZE)
    entries: list[Artist] = []
    for number, line in enumerate(named):
        entry = DrawingArea(width, LEGEND_ROW)
        middle = LEGEND_ROW / 2
        entry.add_artist(Line2D((0, LEGEND_LINE), (middle, middle), color=colour_of(line), linewidth=1.6))
        entry.add_artist(ClassName(LEGEND_LINE + 4, middle, names, number, MAX_LETTERS, size=NAME_SIZE, color=INK))
        entries.append(entry)
    box = AnchoredOffsetbox(_emptiest_corner(axes, lines), child=VPacker(children=entries, pad=0, sep=1), pad=0.3)
    box.patch.set(edgecolor=EDGE, alpha=0.8)
    axes.add_artist(box)


def draw_bars(figure: Figure, title: str, names: Sequence[str], counts: Sequence[int]) -> None:
    """Draw a bar for each of the largest classes into the first tile of `figure`."""
    shown = sorted(range(len(names)), key=lambda kind: -counts[kind])[:MAX_BARS]
    size = min(NAME_SIZE, (TILE[1] - 40) / max(len(shown), 1))
    room = room_for_names(tuple(names), MAX_LETTERS, size)
    axes = add_axes(figure, 0, 0, margins=(room + 10, 40.0, 26.0, 10.0))
    of_all = f", the {len(shown)} largest of {len(names)}" if len(shown) < len(names) else ""
    axes.set_title(title + of_all, x=-room / (TILE[0] - room - 50))
    bars = axes.barh(range(len(shown)), [counts[kind] for kind in shown], color=ACCENT, height=0.85)
    axes.bar_label(bars, padding=3, color=SOFT, size=size)
    _add_names(axes, tuple(names), shown, size=size, gap=0.02)
    axes.set_ylim(max(len(shown), 8) - 0.5, -0.5)
    axes.set_axis_off()


def draw_heat_map(axes: Axes, counts: Counts, *, is_upwards: bool) -> None:
    """Draw a heat map of counts; its first row at the top, or with `is_upwards` at the bottom."""
    cells = np.asarray(counts, dtype=np.float64)
    _draw_cells(axes, np.sqrt(cells / max(cells.max(initial=0.0), 1.0)), is_upwards=is_upwards)


def confusion_figure(counts: Counts, names: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix, predicted (rows) against labelled (columns), in fractions of a column."""
    labels = (*names, "background")
    cells = np.asarray(counts, dtype=np.float64)
    fractions = cells / np.maximum(cells.sum(axis=0, keepdims=True), 1.0)
    is_numbered, is_named = len(names) <= MAX_NUMBERED, len(names) <= MAX_NAMED_CLASSES
    side = min(len(labels), MAX_NAMED_CLASSES) * (CELL if is_numbered else SMALL_CELL)
    room = room_for_names(labels if is_named else ("00000",), MAX_LETTERS, NAME_SIZE) + 18
    above = MARGINS[2] if title else NO_TITLE
    width, height = max(room + side, room_for_names((title,), len(title), NAME_SIZE)) + 12, above + side + room
    figure = new_figure(1, 1, tile=(width, height))
    axes = add_axes(figure, 0, 0, tile=(width, height), margins=(room, width - room - side, above, room))
    figure.text(12 / width, 1 - 16 / height, title, size=NAME_SIZE, color=SOFT)
    _draw_cells(axes, fractions, is_upwards=False)
    for is_below in (False, True) if is_named else ():
        _add_names(axes, labels, range(len(labels)), size=NAME_SIZE, gap=6 / side, is_below=is_below)
    for axis in () if is_named else (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    for row, column in np.argwhere(cells) if is_numbered else ():
        fraction = fractions[row, column]
        text = axes.text(column, row, f"{fraction:.2f}", ha="center", va="center", size=8.0)
        text.set(color="#ffffff" if fraction > 0.5 else INK, gid=f"{TOOLTIP}{cells[row, column]:.0f}")
    return figure


def colour_of(line: Line) -> str:
    """Return the colour of `line`."""
    return COLOURS[line.colour % len(COLOURS)]


def _draw_cells(axes: Axes, fractions: npt.NDArray[np.float64], *, is_upwards: bool) -> None:
    image = np.empty((*fractions.shape, 4))
    image[..., :3], image[..., 3] = to_rgb(ACCENT), fractions
    axes.imshow(image, origin="lower" if is_upwards else "upper", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=EDGE)


def _add_names(
    axes: Axes, names: tuple[str, ...], kinds: Sequence[int], *, size: float, gap: float, is_below: bool = False
) -> None:
    """Name the rows of `axes` on the left or, with `is_below`, its columns; `gap` is a fraction of its side."""
    for number, kind in enumerate(kinds):
        x, y, rotation = (number, -gap, 90) if is_below else (-gap, number, 0)
        name = ClassName(x, y, names, kind, MAX_LETTERS, size=size, color=INK, ha="right", rotation=rotation)
        name.set_transform(axes.get_xaxis_transform() if is_below else axes.get_yaxis_transform())
        axes.add_artist(name)


def _emptiest_corner(axes: Axes, lines: Sequence[Line]) -> str:
    points = np.concatenate([np.column_stack((line.xs, line.ys)) for line in lines])
    across, up = axes.transAxes.inverted().transform(axes.transData.transform(points)).T
    columns = {"right": across > 0.6, "left": across < 0.4, "center": abs(across - 0.5) < 0.2}
    rows = {"upper": up > 0.5, "lower": up < 0.5}
    counts = {
        f"{row} {column}": int((is_row & is_column).sum())
        for column, is_column in columns.items()
        for row, is_row in rows.items()
    }
    return min(counts, key=counts.__getitem__)


def new_figure(columns: int, rows: int, *, tile: tuple[float, float] = TILE) -> Figure:
    """Return an empty figure of tiles, whose width and height are in points."""
    return Figure(figsize=(columns * tile[0] / POINTS_PER_INCH, rows * tile[1] / POINTS_PER_INCH), dpi=DPI)


def add_axes(
    figure: Figure,
    column: int,
    row: int,
    *,
    tile: tuple[float, float] = TILE,
    margins: Sequence[float] = MARGINS,
) -> Axes:
    """Add axes inside the `margins` of a tile; tiles are counted from the upper left."""
    width, height = figure.get_size_inches() * POINTS_PER_INCH
    left, right, top, bottom = margins
    lower = height - (row + 1) * tile[1] + bottom
    bounds = (column * tile[0] + left, lower, tile[0] - left - right, tile[1] - top - bottom)
    return figure.add_axes((bounds[0] / width, bounds[1] / height, bounds[2] / width, bounds[3] / height))


def _write_png(path: Path, figure: Figure) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def svg_of(figure: Figure, title: str) -> str:
    """Return `figure` as an element of a page, with names of lines and counts as tooltips."""
    buffer = BytesIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # would apply to the whole page
    text = re.sub(rf"""<g id=(["']){TOOLTIP}([^>]*?)\1>""", r"<g><title>\2</title>", text)
    # Ids of groups would not be unique in a page; its style has the font.
    text = re.sub(r"""(?<=<g) id=("[^"]*"|'[^']*')|font-family: [^;"]*; | transform="rotate\(-0 [^"]*\"""", "", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
