"""Boxes with names on images, readable on any background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from hpc_yolo.data.images import Pixels
from hpc_yolo.plots.text import BELOW, fitting_label, line_height, text_width, write_text

# Twelve colours (RGB) that stay apart for most eyes, also with red-green weakness; after Paul Tol's sets.
PALETTE = (
    (68, 119, 170), (238, 102, 119), (34, 136, 51), (204, 187, 68), (102, 204, 238), (170, 51, 119),
    (238, 119, 51), (0, 153, 136), (136, 34, 85), (153, 153, 51), (51, 34, 136), (221, 204, 119),
)  # fmt: skip
DARK, LIGHT = (25, 25, 25), (255, 255, 255)
PIXELS_A_LINE = 500  # of the longer side, for each pixel of thickness
MIN_TEXT_PIXELS = 14


@dataclass(frozen=True)
class Style:
    """How boxes look. `thickness` in pixels; None: it follows from the size of the image."""

    thickness: int | None = None
    labels: bool = True
    scores: bool = True


def draw_boxes(pixels: Pixels, detections: Sequence[Sequence[float]], names: Sequence[str], style: Style) -> Pixels:
    """Return a copy of `pixels` (BGR) with `detections`, rows of xyxy in pixels, score, class; highest score on top."""
    drawn: Pixels = pixels.copy()
    thickness = style.thickness or max(1, round(max(pixels.shape[:2]) / PIXELS_A_LINE) + 1)
    all_names = tuple(names)
    for *box, score, kind in sorted(detections, key=lambda row: row[4]):
        colour = colour_of(int(kind))
        left, top, right, bottom = (round(side) for side in box)
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
        if style.labels:
            size = max(MIN_TEXT_PIXELS, 5 + 5 * thickness)
            room = pixels.shape[1] - 2 * max(2, thickness)
            text = fitting_label(all_names, int(kind), room, size, f" {score:.2f}" if style.scores else "")
            _draw_label(drawn, text, (left, top), colour, thickness, size)
    return drawn


def colour_of(kind: int) -> tuple[int, int, int]:
    """Return the colour (BGR) of a class; always the same."""
    red, green, blue = PALETTE[kind % len(PALETTE)]
    return blue, green, red


def _draw_label(
    pixels: Pixels, text: str, corner: tuple[int, int], colour: tuple[int, int, int], thickness: int, size: int
) -> None:
    """Draw the text on the box's colour: above the box, or inside if there is no space; always inside the image.

    `corner`: left and top of the box. `size`: of the text, in pixels.
    """
    height, width = pixels.shape[:2]
    left, top = corner
    pad = max(2, thickness)
    label_width, label_height = text_width(text, size) + 2 * pad, line_height(size)
    x = min(max(left - thickness // 2, 0), max(width - label_width, 0))
    y = top - label_height if top >= label_height else min(max(top, 0), max(height - label_height, 0))
    cv2.rectangle(pixels, (x, y), (x + label_width, y + label_height), colour, cv2.FILLED)
    blue, green, red = colour
    luminance = 0.114 * blue + 0.587 * green + 0.299 * red  # ITU-R BT.601
    text_colour = DARK if luminance > 140 else LIGHT
    write_text(pixels, text, x + pad, y + label_height - round(BELOW * size), text_colour, size, bold=thickness > 3)


def crop(pixels: Pixels, box: Sequence[float]) -> Pixels:
    """Return the part of `pixels` in `box` xyxy, at least one pixel."""
    height, width = pixels.shape[:2]
    left, top = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
    right, bottom = min(max(round(box[2]), left + 1), width), min(max(round(box[3]), top + 1), height)
    part: Pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    return part
