"""The confusion matrix as a PNG, drawn with OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.core.files import write_atomic
from hpc_yolo.data.images import Pixels
from hpc_yolo.plots.text import class_labels, text_width, write_text

DARK_BLUE = (110, 48, 8)  # blue, green, red
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (220, 220, 220)
LINE_HEIGHT_PIXELS = 14
TEXT_SIZE = 12  # pixels
MAX_NUMBERED = 30  # classes up to which there is room for numbers in the cells
MAX_LETTERS = 18


def write_confusion_chart(path: Path, counts: npt.NDArray[np.int64], names: list[str]) -> None:
    """Draw a confusion matrix (classes + 1, classes + 1) as a PNG: each column in shares of what is there."""
    labels = class_labels((*names, "background"), MAX_LETTERS)
    shares = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
    cell = 46 if len(names) <= MAX_NUMBERED else LINE_HEIGHT_PIXELS
    margin = 16 + max(_text_width(label) for label in labels)
    side, top = cell * len(labels), LINE_HEIGHT_PIXELS * 2
    chart: Pixels = np.full((top + side + margin, margin + side + cell, 3), 255, dtype=np.uint8)
    _write_text(chart, "found (rows) against there (columns), shares of a column", 8, LINE_HEIGHT_PIXELS)
    for row, label in enumerate(labels):
        middle = top + row * cell + cell // 2 + 4
        _write_text(chart, label, margin - 8 - _text_width(label), middle)
        for column in range(len(labels)):
            _draw_cell(chart, float(shares[row, column]), margin + column * cell, top + row * cell, cell)
    # Names of columns are written side by side on a strip that is then turned.
    strip: Pixels = np.full((side, margin, 3), 255, dtype=np.uint8)
    for column, label in enumerate(labels):
        _write_text(strip, label, margin - 8 - _text_width(label), column * cell + cell // 2 + 4)
    chart[top + side :, margin : margin + side] = np.rot90(strip)
    cv2.rectangle(chart, (margin, top), (margin + side, top + side), GREY)
    done, png = cv2.imencode(".png", chart)
    assert done
    write_atomic(path, png.tobytes())


def _draw_cell(chart: Pixels, share: float, left: int, top: int, cell: int) -> None:
    colour = tuple(round(255 + (dark - 255) * share) for dark in DARK_BLUE)
    cv2.rectangle(chart, (left, top), (left + cell - 1, top + cell - 1), colour, -1)
    if share >= 0.005 and cell > LINE_HEIGHT_PIXELS:
        text = f"{share:.2f}"
        left += (cell - _text_width(text)) // 2
        _write_text(chart, text, left, top + cell // 2 + 4, WHITE if share > 0.45 else BLACK)


def _text_width(text: str) -> int:
    return text_width(text, TEXT_SIZE)


def _write_text(chart: Pixels, text: str, left: int, baseline: int, colour: tuple[int, int, int] = BLACK) -> None:
    write_text(chart, text, left, baseline, colour, TEXT_SIZE)
