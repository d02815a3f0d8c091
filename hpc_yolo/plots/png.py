"""Charts as PNG, drawn with OpenCV, side by side on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.core.files import write_atomic
from hpc_yolo.data.images import Pixels
from hpc_yolo.plots.chart import Chart, Line, tick_text
from hpc_yolo.plots.draw import colour_of
from hpc_yolo.plots.labels import LabelStatistics
from hpc_yolo.plots.text import class_labels, text_width, write_text

WIDTH, HEIGHT = 480, 320  # of one chart
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 44  # room around its lines
COLUMNS = 3
BLACK, GREY, PALE = (25, 25, 25), (120, 120, 120), (228, 228, 228)
TEXT_SIZE, TITLE_SIZE = 13, 15  # pixels
MAX_NAMES = 8  # in a legend
MAX_BARS = 30
NAME_LETTERS = 20


def write_charts(path: Path, charts: Sequence[Chart]) -> None:
    """Draw `charts` on one sheet, two or three beside each other.

    Raises:
        OSError: the file system refuses.
    """
    write_sheet(path, [chart_pixels(chart) for chart in charts], 2 if len(charts) == 4 else COLUMNS)


def write_label_charts(path: Path, statistics: LabelStatistics) -> None:
    """Draw how many objects of which class the training set has, where they are and how large.

    Raises:
        OSError: the file system refuses.
    """
    train = statistics.train
    tiles = [
        _bars("Objects by class", statistics.names, train.class_counts),
        _heat_map("Centres of objects on the image", train.centres),
        _heat_map("Height over width of objects, shares of the image", train.sides, from_bottom=True),
    ]
    write_sheet(path, tiles, COLUMNS)


def write_sheet(path: Path, tiles: Sequence[Pixels], columns: int) -> None:
    """Put `tiles` of one size beside and below each other into a file; its suffix says of which kind.

    Raises:
        OSError: the file system refuses.
    """
    columns = min(columns, len(tiles))
    height, width = tiles[0].shape[:2]
    sheet: Pixels = np.full((-(-len(tiles) // columns) * height, columns * width, 3), 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * width
        sheet[top : top + height, left : left + width] = tile
    done, content = cv2.imencode(path.suffix, sheet)
    assert done
    write_atomic(path, content.tobytes())


def chart_pixels(chart: Chart) -> Pixels:
    """One chart, `HEIGHT` x `WIDTH` pixels (BGR)."""
    pixels = _empty(chart.title)
    x_axis, y_axis = chart.x_axis, chart.y_axis
    for tick in y_axis.ticks:
        y = _y(y_axis.share(tick))
        cv2.line(pixels, (LEFT, y), (WIDTH - RIGHT, y), PALE, 1)
        text = tick_text(tick, y_axis)
        _write(pixels, text, LEFT - 6 - _width(text), y + 4, GREY)
    for tick in x_axis.ticks:
        text = tick_text(tick, x_axis)
        _write(pixels, text, _x(x_axis.share(tick)) - _width(text) // 2, HEIGHT - BOTTOM + 16, GREY)
    _write(pixels, chart.x_label, (LEFT + WIDTH - RIGHT - _width(chart.x_label)) // 2, HEIGHT - 8, GREY)
    for mark in chart.marks:
        x = _x(x_axis.share(mark))
        for y in range(TOP, HEIGHT - BOTTOM, 8):
            cv2.line(pixels, (x, y), (x, y + 3), GREY, 1)
    drawn = []
    for line in chart.lines:
        points = np.array(
            [[_x(x_axis.share(x)), _y(y_axis.share(y))] for x, y in zip(line.xs, line.ys, strict=True)], dtype=np.int32
        ).reshape(-1, 2)
        drawn.append(points)
        if len(points) == 1:
            cv2.circle(pixels, points[0].tolist(), 3, colour_of(line.colour), cv2.FILLED, cv2.LINE_AA)
        elif len(points):
            cv2.polylines(pixels, [points], False, colour_of(line.colour), 2 if line.is_main else 1, cv2.LINE_AA)
    _draw_legend(pixels, chart.lines, np.concatenate([np.zeros((0, 2), dtype=np.int32), *drawn]))
    cv2.rectangle(pixels, (LEFT, TOP), (WIDTH - RIGHT, HEIGHT - BOTTOM), GREY, 1)
    return pixels


def _draw_legend(pixels: Pixels, lines: Sequence[Line], points: npt.NDArray[np.int32]) -> None:
    """The lines' names on white where the fewest of their `points` are; one line needs none: the title says enough."""
    if len(lines) < 2:
        return
    named = sorted(lines, key=lambda line: not line.is_main)[:MAX_NAMES]
    words = class_labels(tuple(line.name for line in named), NAME_LETTERS)
    width, height = max(map(_width, words)) + 34, 15 * len(named) + 6
    corners = [
        (x, y)
        for x in (WIDTH - RIGHT - width - 4, LEFT + 4, (LEFT + WIDTH - RIGHT - width) // 2)
        for y in (TOP + 4, HEIGHT - BOTTOM - height - 4)
    ]
    left, top = min(
        corners, key=lambda at: int(((points >= at) & (points <= np.add(at, (width, height)))).all(1).sum())
    )
    corner = pixels[top : top + height, left : left + width]
    corner[:] = (corner * 0.2 + 255 * 0.8).astype(np.uint8)
    for number, (line, text) in enumerate(zip(named, words, strict=True)):
        y = top + 12 + 15 * number
        cv2.line(pixels, (left + 4, y - 4), (left + 22, y - 4), colour_of(line.colour), 2 if line.is_main else 1)
        _write(pixels, text, left + 28, y, BLACK)


def _bars(title: str, names: Sequence[str], counts: Sequence[int]) -> Pixels:
    """The largest classes, a bar each."""
    labels = class_labels(tuple(names), NAME_LETTERS)
    shown = sorted(zip(counts, labels, strict=True), key=lambda pair: -pair[0])[:MAX_BARS]
    more = len(names) - len(shown)
    pixels = _empty(title if more <= 0 else f"{title}, the {len(shown)} largest of {len(names)}")
    row = max((HEIGHT - TOP - 10) / max(len(shown), 1), 1.0)
    row = min(row, 26.0)
    margin = max((_width(name) for _, name in shown), default=0) + 14
    room = WIDTH - margin - 70
    for number, (count, name) in enumerate(shown):
        y = round(TOP + number * row)
        length = round(room * count / max(shown[0][0], 1))
        cv2.rectangle(pixels, (margin, y), (margin + length, round(y + row) - 2), colour_of(0), cv2.FILLED)
        if row >= 9:
            _write(pixels, name, margin - 6 - _width(name), round(y + row / 2) + 4, BLACK)
            _write(pixels, str(count), margin + length + 5, round(y + row / 2) + 4, GREY)
    return pixels


def _heat_map(title: str, counts: Sequence[Sequence[int]], *, from_bottom: bool = False) -> Pixels:
    pixels = _empty(title)
    cells = np.array(counts, dtype=np.float64)
    shares = np.sqrt(cells / max(cells.max(), 1))[:: -1 if from_bottom else 1]
    side = HEIGHT - TOP - 12
    enlarged = cv2.resize(shares, (side, side), interpolation=cv2.INTER_NEAREST)[:, :, None]
    left = (WIDTH - side) // 2
    pixels[TOP : TOP + side, left : left + side] = (255 + (np.array(colour_of(0)) - 255) * enlarged).astype(np.uint8)
    cv2.rectangle(pixels, (left, TOP), (left + side, TOP + side), GREY, 1)
    return pixels


def _empty(title: str) -> Pixels:
    pixels: Pixels = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    _write(pixels, title, 12, 20, BLACK, size=TITLE_SIZE)
    return pixels


def _x(share: float) -> int:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT))


def _y(share: float) -> int:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM))


def _width(text: str) -> int:
    return text_width(text, TEXT_SIZE)


def _write(
    pixels: Pixels, text: str, left: int, baseline: int, colour: tuple[int, int, int], *, size: int = TEXT_SIZE
) -> None:
    write_text(pixels, text, left, baseline, colour, size)
