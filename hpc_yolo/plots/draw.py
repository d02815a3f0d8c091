"""Boxes with names on pictures, readable on any ground."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from hpc_yolo.data.images import Pixels

# Twelve colours (RGB) that stay apart for most eyes, also with red-green weakness; after Paul Tol's sets.
PALETTE = (
    (68, 119, 170), (238, 102, 119), (34, 136, 51), (204, 187, 68), (102, 204, 238), (170, 51, 119),
    (238, 119, 51), (0, 153, 136), (136, 34, 85), (153, 153, 51), (51, 34, 136), (221, 204, 119),
)  # fmt: skip
DARK, LIGHT = (25, 25, 25), (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
PIXELS_A_LINE = 500  # of the longer side, for each pixel of thickness
MIN_TEXT_PIXELS = 11


@dataclass(frozen=True)
class Style:
    """How boxes look. `thickness` in pixels; by the picture's size unless said."""

    thickness: int | None = None
    labels: bool = True
    scores: bool = True


def draw_boxes(pixels: Pixels, detections: Sequence[Sequence[float]], names: Sequence[str], style: Style) -> Pixels:
    """A copy of `pixels` (BGR) with `detections`, rows of xyxy in its pixels, score and class; the surest on top."""
    drawn: Pixels = pixels.copy()
    thickness = style.thickness or max(1, round(max(pixels.shape[:2]) / PIXELS_A_LINE) + 1)
    for *box, score, kind in sorted(detections, key=lambda row: row[4]):
        colour = colour_of(int(kind))
        left, top, right, bottom = (round(side) for side in box)
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
        if style.labels:
            text = plain_text(names[int(kind)]) + (f" {score:.2f}" if style.scores else "")
            _draw_label(drawn, text, (left, top, right, bottom), colour, thickness)
    return drawn


def colour_of(kind: int) -> tuple[int, int, int]:
    """The colour (BGR) of a class; always the same."""
    red, green, blue = PALETTE[kind % len(PALETTE)]
    return blue, green, red


def plain_text(name: str) -> str:
    """`name` in the letters that OpenCV can draw: accents are left off, what has no plain letter becomes a ?."""
    decomposed = unicodedata.normalize("NFKD", name)
    bare = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return bare.encode("ascii", "replace").decode()


def _draw_label(
    pixels: Pixels, text: str, box: tuple[int, int, int, int], colour: tuple[int, int, int], thickness: int
) -> None:
    """The text on a ground of the box's colour: above the box, or inside where there is no room; all on the picture."""
    height, width = pixels.shape[:2]
    left, top, _, _ = box
    scale = max(MIN_TEXT_PIXELS, 4 + 4 * thickness) / 22  # the font's capitals are 22 pixels high at scale 1
    weight = max(1, thickness // 2)
    (text_width, text_height), below = cv2.getTextSize(text, FONT, scale, weight)
    pad = max(2, thickness)
    label_height = text_height + below + pad
    x = min(max(left - thickness // 2, 0), max(width - text_width - 2 * pad, 0))
    y = top - label_height if top >= label_height else min(max(top, 0), max(height - label_height, 0))
    cv2.rectangle(pixels, (x, y), (x + text_width + 2 * pad, y + label_height), colour, cv2.FILLED)
    blue, green, red = colour
    luminance = 0.114 * blue + 0.587 * green + 0.299 * red  # ITU-R BT.601
    text_colour = DARK if luminance > 140 else LIGHT
    cv2.putText(pixels, text, (x + pad, y + text_height + pad // 2), FONT, scale, text_colour, weight, cv2.LINE_AA)


def crop(pixels: Pixels, box: Sequence[float]) -> Pixels:
    """The part of `pixels` in `box` xyxy, at least one pixel."""
    height, width = pixels.shape[:2]
    left, top = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
    right, bottom = min(max(round(box[2]), left + 1), width), min(max(round(box[3]), top + 1), height)
    part: Pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    return part
