"""Drawn images of glyphs: small letters and digits of any colour on textures, with strokes that are no glyphs.

Only the form tells the classes apart, also in a mirror.
"""

from __future__ import annotations

import cv2
import numpy as np

from hpc_yolo.data.images import Pixels

CLASSES = ("A", "E", "K", "O", "T", "X", "4", "7")
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
SIDES_PIXELS = (8, 40)  # of the longer side; small ones are as frequent as large ones on a logarithmic scale
MAX_GLYPHS = 10
MAX_STROKES = 8
MARGIN_PIXELS = 2  # between two glyphs
MIN_CONTRAST = 70  # levels of grey between a glyph and the mean of its background
STENCIL_SCALE, STENCIL_MARGIN = 4.0, 40  # size of a glyph before it is scaled down: about 90 pixels

Box = tuple[int, float, float, float, float]


def draw_image(random: np.random.Generator, image_size: tuple[int, int]) -> tuple[Pixels, list[Box]]:
    """Return (pixels (height, width, BGR), boxes of class, left, top, right, bottom in pixels)."""
    width, height = image_size
    pixels = _texture(random, width, height)
    boxes: list[Box] = []
    for _ in range(int(random.integers(1, MAX_GLYPHS + 1))):
        class_index = int(random.integers(len(CLASSES)))
        stencil = _scaled(random, _stencil(random, CLASSES[class_index]), min(width, height))
        stencil_height, stencil_width = stencil.shape
        left, top = int(random.integers(width - stencil_width + 1)), int(random.integers(height - stencil_height + 1))
        box = (class_index, float(left), float(top), float(left + stencil_width), float(top + stencil_height))
        if all(_are_apart(box, other) for other in boxes):
            _print(random, pixels[top : top + stencil_height, left : left + stencil_width], stencil)
            boxes.append(box)
    grain = random.integers(-6, 7, size=pixels.shape)
    return (pixels.astype(np.int64) + grain).clip(0, 255).astype(np.uint8), boxes


def _texture(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Return patches of two sizes, a wave, and strokes."""
    layers = np.full((height, width, 3), random.uniform(90, 165, size=3))
    for cells, amplitude in ((6, 30), (40, 14)):
        coarse = random.normal(0, amplitude, size=(cells, cells, 3)).astype(np.float32)
        layers += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    angle, period = random.uniform(0, np.pi), random.uniform(6, 40)
    ys, xs = np.mgrid[:height, :width]
    wave = np.sin((xs * np.cos(angle) + ys * np.sin(angle)) * 2 * np.pi / period) * random.uniform(0, 18)
    pixels: Pixels = (layers + wave[..., None]).clip(0, 255).astype(np.uint8)
    for _ in range(int(random.integers(MAX_STROKES + 1))):
        ends = random.integers(0, (width, height), size=(2, 2))
        colour = tuple(map(int, random.integers(40, 216, size=3)))
        cv2.line(pixels, ends[0].tolist(), ends[1].tolist(), colour, int(random.integers(1, 4)), cv2.LINE_AA)
    return pixels


def _stencil(random: np.random.Generator, glyph: str) -> Pixels:
    """Return a glyph (height, width), 255 where it is and 0 elsewhere, that touches all four sides."""
    font, thickness = FONTS[random.integers(len(FONTS))], int(random.integers(8, 14))
    (width, height), below = cv2.getTextSize(glyph, font, STENCIL_SCALE, thickness)
    canvas = np.zeros((height + below + 2 * STENCIL_MARGIN, width + 2 * STENCIL_MARGIN), dtype=np.uint8)
    origin = STENCIL_MARGIN, STENCIL_MARGIN + height
    cv2.putText(canvas, glyph, origin, font, STENCIL_SCALE, 255, thickness, cv2.LINE_AA)
    left, top, width, height = cv2.boundingRect((canvas > 127).astype(np.uint8))
    stencil: Pixels = canvas[top : top + height, left : left + width]
    return stencil


def _scaled(random: np.random.Generator, stencil: Pixels, largest: int) -> Pixels:
    """Return a stencil with a longer side that is drawn, at most `largest` pixels, and a little narrower or wider."""
    low, high = SIDES_PIXELS[0], min(SIDES_PIXELS[1], largest)
    side = np.exp(random.uniform(np.log(low), np.log(high)))
    height, width = stencil.shape[0], stencil.shape[1] * random.uniform(0.8, 1.25)
    scale = side / max(height, width)
    size = (max(round(width * scale), 3), max(round(height * scale), 3))
    return np.asarray(cv2.resize(stencil, size, interpolation=cv2.INTER_AREA))


def _print(random: np.random.Generator, pixels: Pixels, stencil: Pixels) -> None:
    """Blend a colour into `pixels` where the stencil is; it is brighter or darker than they are by MIN_CONTRAST."""
    grey = float(pixels.mean())
    level = random.uniform(grey + MIN_CONTRAST, 255) if grey < 128 else random.uniform(0, grey - MIN_CONTRAST)
    colour = (level + random.uniform(-40, 40, size=3)).clip(0, 255)
    colour += level - colour.mean()
    opacity = stencil[..., None] / 255
    pixels[:] = (pixels * (1 - opacity) + colour * opacity).clip(0, 255).astype(np.uint8)


def _are_apart(first: Box, second: Box) -> bool:
    horizontal = max(first[1], second[1]) - min(first[3], second[3])
    vertical = max(first[2], second[2]) - min(first[4], second[4])
    return max(horizontal, vertical) >= MARGIN_PIXELS
