"""Augmentation of images and boxes.

Functions that change an image take their values as arguments; functions named `draw_…` draw the values from a
generator. Boxes are rows of class and xyxy in pixels unless stated otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.images import GREY, Pixels
from hpc_yolo.data.polygons import Outlines, visible_hulls
from hpc_yolo.spec.schema import Hyperparameters

Rows = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

MIN_SIDE_PIXELS = 2
MAX_ASPECT = 100
MIN_AREA_SHARE = 0.10
MIN_AREA_SHARE_OUTLINED = 0.01
MIXUP_BETA = 32.0


@dataclass(frozen=True)
class Warp:
    """Numbers of a perspective warp: degrees for angles, shares of the output's sides for the shift."""

    perspective_x: float = 0.0
    perspective_y: float = 0.0
    angle: float = 0.0
    scale: float = 1.0
    shear_x: float = 0.0
    shear_y: float = 0.0
    translate_x: float = 0.5
    translate_y: float = 0.5


def draw_warp(random: np.random.Generator, hyp: Hyperparameters) -> Warp:
    """A warp within the limits of `hyp`."""
    return Warp(
        perspective_x=random.uniform(-hyp.perspective, hyp.perspective),
        perspective_y=random.uniform(-hyp.perspective, hyp.perspective),
        angle=random.uniform(-hyp.degrees, hyp.degrees),
        scale=random.uniform(1 - hyp.scale, 1 + hyp.scale),
        shear_x=random.uniform(-hyp.shear, hyp.shear),
        shear_y=random.uniform(-hyp.shear, hyp.shear),
        translate_x=random.uniform(0.5 - hyp.translate, 0.5 + hyp.translate),
        translate_y=random.uniform(0.5 - hyp.translate, 0.5 + hyp.translate),
    )


def warp_matrix(warp: Warp, canvas_wh: tuple[int, int], output_wh: tuple[int, int]) -> Matrix:
    """(3, 3): centre to the origin, perspective, rotation with scale, shear, then to its place in the output."""
    centre = np.eye(3)
    centre[:2, 2] = -canvas_wh[0] / 2, -canvas_wh[1] / 2
    perspective = np.eye(3)
    perspective[2, :2] = warp.perspective_x, warp.perspective_y
    rotation = np.eye(3)
    rotation[:2] = cv2.getRotationMatrix2D((0, 0), warp.angle, warp.scale)
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = math.tan(math.radians(warp.shear_x)), math.tan(math.radians(warp.shear_y))
    translation = np.eye(3)
    translation[:2, 2] = warp.translate_x * output_wh[0], warp.translate_y * output_wh[1]
    return np.asarray(translation @ shear @ rotation @ perspective @ centre)


def warp_image(pixels: Pixels, matrix: Matrix, output_wh: tuple[int, int], *, has_perspective: bool) -> Pixels:
    """The image moved by `matrix` into one of `output_wh`, grey where nothing comes to lie."""
    if has_perspective:
        warped = cv2.warpPerspective(pixels, matrix, output_wh, borderValue=GREY)
    else:
        warped = cv2.warpAffine(pixels, matrix[:2], output_wh, borderValue=GREY)
    return np.asarray(warped, dtype=np.uint8)


def warp_boxes(
    rows: Rows, matrix: Matrix, scale: float, output_wh: tuple[int, int], outlines: Outlines | None = None
) -> Rows:
    """The hulls of the moved boxes inside the output, without those of which too little is left.

    Args:
        outlines: of the same objects; where one has a polygon, the hull is that of its polygon.
    """
    if len(rows) == 0:
        return rows
    left, top, right, bottom = rows[:, 1:].T.astype(np.float64)
    corners = np.stack([left, top, right, bottom, left, bottom, right, top], axis=1).reshape(-1, 2)
    moved = np.concatenate([corners, np.ones((len(corners), 1))], axis=1) @ matrix.T
    moved = (moved[:, :2] / moved[:, 2:]).reshape(-1, 4, 2)
    hulls = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    hulls[:, 0::2] = hulls[:, 0::2].clip(0, output_wh[0])
    hulls[:, 1::2] = hulls[:, 1::2].clip(0, output_wh[1])
    min_area_share: float | npt.NDArray[np.float64] = MIN_AREA_SHARE
    if outlines is not None and not outlines.is_empty:
        outlined = outlines.counts > 0
        hulls[outlined] = visible_hulls(outlines, matrix, output_wh)[outlined]
        min_area_share = np.where(outlined, MIN_AREA_SHARE_OUTLINED, MIN_AREA_SHARE)
    kept = is_worth_keeping(rows[:, 1:] * scale, hulls, min_area_share)
    return np.concatenate([rows[kept, :1], hulls[kept]], axis=1).astype(np.float32)


def is_worth_keeping(
    before_xyxy: npt.NDArray[np.floating],
    after_xyxy: npt.NDArray[np.floating],
    min_area_share: float | npt.NDArray[np.float64] = MIN_AREA_SHARE,
) -> npt.NDArray[np.bool_]:
    """(n,): whether enough of each box is left, and it is neither tiny nor a sliver."""
    width_before, height_before = (before_xyxy[:, 2:] - before_xyxy[:, :2]).T
    width, height = (after_xyxy[:, 2:] - after_xyxy[:, :2]).T
    aspect = np.maximum(width / (height + 1e-16), height / (width + 1e-16))
    share = width * height / (width_before * height_before + 1e-16)
    big_enough = (width > MIN_SIDE_PIXELS) & (height > MIN_SIDE_PIXELS)
    return np.asarray(big_enough & (share > min_area_share) & (aspect < MAX_ASPECT))


def draw_mosaic_centre(random: np.random.Generator, imgsz: int) -> tuple[int, int]:
    """Where four images meet on a canvas of twice `imgsz`: (x, y) in its middle half."""
    y, x = random.uniform(imgsz / 2, imgsz * 3 / 2, size=2)
    return int(x), int(y)


def mosaic_tile(
    index: int, tile_wh: tuple[int, int], centre: tuple[int, int], imgsz: int
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """(place on the canvas, part of the tile), each xyxy, of tile 0-3: top left, top right, bottom left, bottom right.

    Each tile touches the centre with its own corner; what does not fit is cut off.
    """
    (width, height), (x, y), size = tile_wh, centre, 2 * imgsz
    is_right, is_bottom = index % 2 == 1, index >= 2
    left, right = (x, min(x + width, size)) if is_right else (max(x - width, 0), x)
    top, bottom = (y, min(y + height, size)) if is_bottom else (max(y - height, 0), y)
    source_left = 0 if is_right else width - (right - left)
    source_top = 0 if is_bottom else height - (bottom - top)
    source = source_left, source_top, source_left + right - left, source_top + bottom - top
    return (left, top, right, bottom), source


def mosaic(
    tiles: list[tuple[Pixels, Rows, Outlines]], centre: tuple[int, int], imgsz: int
) -> tuple[Pixels, Rows, Outlines]:
    """Place four images around `centre` on a canvas of 2 x `imgsz`; move their labels and cut them at its edges.

    Boxes (class, cxcywh) and polygons are fractions of their image.
    """
    canvas = np.full((2 * imgsz, 2 * imgsz, 3), GREY[0], dtype=np.uint8)
    all_rows, all_outlines = [], []
    for index, (pixels, shares, outlines) in enumerate(tiles):
        height, width = pixels.shape[:2]
        (x1, y1, x2, y2), (a1, b1, a2, b2) = mosaic_tile(index, (width, height), centre, imgsz)
        canvas[y1:y2, x1:x2] = pixels[b1:b2, a1:a2]
        all_rows.append(shares_to_pixels(shares, width, height, x1 - a1, y1 - b1))
        all_outlines.append(outlines.scaled(width, height, x1 - a1, y1 - b1))
    rows = np.concatenate(all_rows)
    rows[:, 1:] = rows[:, 1:].clip(0, 2 * imgsz)
    return canvas, rows, Outlines.joined(all_outlines).clipped(2 * imgsz, 2 * imgsz)


def shares_to_pixels(shares: Rows, width: float, height: float, left: float = 0, top: float = 0) -> Rows:
    """Rows of class, cxcywh in [0, 1] -> class, xyxy in pixels, moved by (left, top)."""
    rows = np.empty_like(shares)
    rows[:, 0] = shares[:, 0]
    rows[:, 1] = (shares[:, 1] - shares[:, 3] / 2) * width + left
    rows[:, 2] = (shares[:, 2] - shares[:, 4] / 2) * height + top
    rows[:, 3] = (shares[:, 1] + shares[:, 3] / 2) * width + left
    rows[:, 4] = (shares[:, 2] + shares[:, 4] / 2) * height + top
    return rows


def pixels_to_shares(rows: Rows, width: int, height: int) -> Rows:
    """Rows of class, xyxy in pixels -> class, cxcywh in [0, 1], cut at the image's edges."""
    left, right = rows[:, [1, 3]].clip(0, width - 1e-3).T
    top, bottom = rows[:, [2, 4]].clip(0, height - 1e-3).T
    centres = (left + right) / 2 / width, (top + bottom) / 2 / height
    sizes = (right - left) / width, (bottom - top) / height
    return np.stack([rows[:, 0], *centres, *sizes], axis=1).astype(np.float32)


def draw_hsv_gains(random: np.random.Generator, hyp: Hyperparameters) -> npt.NDArray[np.float64]:
    """Factors for hue, saturation and value, (3,), each even over 1 ± its limit."""
    limits = np.array([hyp.hsv_h, hyp.hsv_s, hyp.hsv_v])
    return np.asarray(random.uniform(1 - limits, 1 + limits))


def hsv_tables(gains: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint8], ...]:
    """Look-up tables (256,) of hue (turning round at 180), saturation and value (ending at 255)."""
    levels = np.arange(256, dtype=np.float64)
    hue = (levels * gains[0]) % 180
    saturation, value = (np.clip(levels * gain, 0, 255) for gain in gains[1:])
    return hue.astype(np.uint8), saturation.astype(np.uint8), value.astype(np.uint8)


def change_colours(pixels: Pixels, gains: npt.NDArray[np.float64]) -> Pixels:
    """The image with hue, saturation and value scaled by `gains`."""
    tables = np.stack(hsv_tables(gains), axis=-1)[None]  # one look-up for all three channels
    changed = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV), tables)
    return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2BGR), dtype=np.uint8)


def flip(pixels: Pixels, shares: Rows, *, up_down: bool, left_right: bool) -> tuple[Pixels, Rows]:
    """The image and its boxes (class, cxcywh in shares) mirrored."""
    if up_down:
        pixels, shares = pixels[::-1], _mirrored(shares, 2)
    if left_right:
        pixels, shares = pixels[:, ::-1], _mirrored(shares, 1)
    return pixels, shares


def _mirrored(shares: Rows, column: int) -> Rows:
    mirrored: Rows = shares.copy()
    mirrored[:, column] = 1 - mirrored[:, column]
    return mirrored


def mix(first: Pixels, second: Pixels, share: float) -> Pixels:
    """`share` of the first image and the rest of the second."""
    mixed: Pixels = (first * share + second * (1 - share)).astype(np.uint8)
    return mixed
