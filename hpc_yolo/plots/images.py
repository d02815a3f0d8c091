"""Images with their boxes on one sheet: training inputs, and detections of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.core.files import write_atomic
from hpc_yolo.data.images import Pixels, letterbox
from hpc_yolo.plots.draw import Style, draw_boxes
from hpc_yolo.plots.text import BELOW, line_height, text_width, write_text

TILE_PIXELS = 320
MOSAIC_COLUMNS = 4
PAIR_COLUMNS = 4  # two images with labels and detections each
GAP = 4
TITLE_SIZE = 14  # pixels
LABELS, DETECTIONS = "labels", "detections"
STYLE = Style(thickness=1)

Rows = npt.NDArray[np.floating]


@dataclass(frozen=True)
class LabelledImage:
    """An image (height, width, BGR) and its boxes: rows of xyxy in its pixels, score (1 for labels) and class."""

    pixels: Pixels
    rows: Rows


def write_mosaics(path: Path, images: Sequence[LabelledImage], names: Sequence[str]) -> None:
    """Draw training images as they enter the model.

    Raises:
        OSError: the file cannot be written.
    """
    tiles = [_tile(image, names, Style(thickness=1, scores=False)) for image in images]
    write_sheet(path, tiles, MOSAIC_COLUMNS)


def write_pairs(path: Path, pairs: Sequence[tuple[LabelledImage, LabelledImage]], names: Sequence[str]) -> None:
    """Draw images twice side by side: with their labels, and with the detections.

    Raises:
        OSError: the file cannot be written.
    """
    tiles = []
    for labelled, found in pairs:
        tiles.append(_titled(_tile(labelled, names, Style(thickness=1, scores=False)), LABELS))
        tiles.append(_titled(_tile(found, names, STYLE), DETECTIONS))
    write_sheet(path, tiles, PAIR_COLUMNS)


def write_sheet(path: Path, tiles: Sequence[Pixels], columns: int) -> None:
    """Write `tiles` of one size side by side and below each other; the suffix of `path` chooses the format.

    Raises:
        OSError: the file cannot be written.
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


def _tile(image: LabelledImage, names: Sequence[str], style: Style) -> Pixels:
    """Scale the image into a square of `TILE_PIXELS`, then draw its boxes, so that they stay sharp."""
    side = TILE_PIXELS - GAP
    scaled, ratio, (left, top) = letterbox(image.pixels, (side, side))
    rows = np.array(image.rows, dtype=np.float64).reshape(-1, 6)
    rows[:, :4] = rows[:, :4] * ratio + np.tile([round(left - 0.1), round(top - 0.1)], 2)
    drawn = draw_boxes(scaled, rows.tolist(), names, style)
    return np.asarray(
        cv2.copyMakeBorder(drawn, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255)), dtype=np.uint8
    )


def _titled(tile: Pixels, text: str) -> Pixels:
    """Write `text` into the lower left corner of `tile`."""
    bottom, width = TILE_PIXELS - GAP, text_width(text, TITLE_SIZE)
    cv2.rectangle(tile, (0, bottom - line_height(TITLE_SIZE)), (width + 8, bottom - 1), (25, 25, 25), cv2.FILLED)
    write_text(tile, text, 4, bottom - round(BELOW * TITLE_SIZE), (255, 255, 255), TITLE_SIZE)
    return tile
