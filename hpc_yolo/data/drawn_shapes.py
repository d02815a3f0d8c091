"""Drawn images of shapes: every class has a form and colours around a hue of its own.

Backgrounds are soft, and shapes may overlap.
"""

from __future__ import annotations

import cv2
import numpy as np

from hpc_yolo.data.images import Pixels

CLASSES = ("circle", "square", "triangle", "star")
HUES = (0, 60, 110, 150)  # of OpenCV's 180, one for each class; a shape deviates by up to HUE_SPREAD
HUE_SPREAD = 12
SIDES_PIXELS = (28, 96)
MAX_SHAPES = 5
MAX_OVERLAP = 0.35


def draw_image(
    random: np.random.Generator, image_size: tuple[int, int]
) -> tuple[Pixels, list[tuple[int, float, float, float, float]]]:
    """Return (pixels (height, width, BGR), boxes of class, left, top, right, bottom in pixels)."""
    width, height = image_size
    pixels = _background(random, width, height)
    boxes: list[tuple[int, float, float, float, float]] = []
    for _ in range(int(random.integers(1, MAX_SHAPES + 1))):
        class_index = int(random.integers(len(CLASSES)))
        side = int(random.integers(SIDES_PIXELS[0], min(SIDES_PIXELS[1], width, height) + 1))
        left, top = int(random.integers(width - side + 1)), int(random.integers(height - side + 1))
        box = (class_index, float(left), float(top), float(left + side), float(top + side))
        if all(_overlap_fraction(box, other) <= MAX_OVERLAP for other in boxes):
            _draw_shape(pixels, class_index, left, top, side, _colour(random, class_index))
            boxes.append(box)
    grain = random.integers(-8, 9, size=pixels.shape)
    return (pixels.astype(np.int64) + grain).clip(0, 255).astype(np.uint8), boxes


def _background(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Return soft patches of grey and weak colour."""
    coarse = random.integers(70, 150, size=(6, 8, 1)) + random.integers(-15, 16, size=(6, 8, 3))
    return np.asarray(cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC))


def _colour(random: np.random.Generator, class_index: int) -> tuple[int, int, int]:
    hue = (HUES[class_index] + int(random.integers(-HUE_SPREAD, HUE_SPREAD + 1))) % 180
    pixel = np.array([[[hue, random.integers(150, 256), random.integers(150, 256)]]], dtype=np.uint8)
    blue, green, red = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def _draw_shape(pixels: Pixels, class_index: int, left: int, top: int, side: int, colour: tuple[int, int, int]) -> None:
    """Draw a shape that touches all four sides of its box."""
    if CLASSES[class_index] == "circle":
        axes = (side // 2, side // 2)
        cv2.ellipse(pixels, (left + side // 2, top + side // 2), axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
        return
    outlines = {
        "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
        "triangle": [(0.5, 0), (1, 1), (0, 1)],
        "star": [(0.5, 0), (0.62, 0.38), (1, 0.5), (0.62, 0.62), (0.5, 1), (0.38, 0.62), (0, 0.5), (0.38, 0.38)],
    }
    points = np.array(outlines[CLASSES[class_index]]) * (side - 1) + (left, top)
    cv2.fillPoly(pixels, [points.round().astype(np.int32)], colour, cv2.LINE_AA)


def _overlap_fraction(
    first: tuple[int, float, float, float, float], second: tuple[int, float, float, float, float]
) -> float:
    """Return the overlap as a fraction of the smaller box."""
    width = min(first[3], second[3]) - max(first[1], second[1])
    height = min(first[4], second[4]) - max(first[2], second[2])
    smaller = min((box[3] - box[1]) * (box[4] - box[2]) for box in (first, second))
    return max(width, 0) * max(height, 0) / smaller
