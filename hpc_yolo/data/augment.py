"""Augmentation: parameters, and what they do to boxes; `tiles` and `colours` change pixels.

Functions that apply a change take its parameters as arguments; functions named `draw_…` draw these from a generator.
`boxes` are (n, 5) class, xyxy in pixels; `labels` are (n, 5) class, cxcywh in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.images import GREY, Pixels
from hpc_yolo.data.labels import Labels
from hpc_yolo.data.polygons import Outlines, visible_hulls
from hpc_yolo.spec.recipe import Hyperparameters

Boxes = npt.NDArray[np.float32]  # (n, 5) class, xyxy in pixels
Matrix = npt.NDArray[np.float64]

MIN_SIDE_PIXELS = 2
MAX_ASPECT = 100
MIN_AREA_FRACTION = 0.10
MIN_AREA_FRACTION_OUTLINED = 0.01
MIXUP_BETA = 32.0
NUM_HUES = 180  # of an 8-bit image of OpenCV
LEVELS = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
# Up to this gain hues stay below 210, and OpenCV's conversion to RGB counts them modulo 180, within a level.
MAX_COUNTED_HUE_GAIN = 1.15
# Added before rounding to the nearest level, so that levels are cut off instead: exact but for 1 of 10,000 fractions.
LEVEL_CUT_OFF = -0.4999


@dataclass(frozen=True)
class Warp:
    """The parameters of a perspective warp: angles in degrees, the shift as fractions of the output's sides."""

    perspective_x: float = 0.0
    perspective_y: float = 0.0
    angle: float = 0.0
    scale: float = 1.0
    shear_x: float = 0.0
    shear_y: float = 0.0
    translate_x: float = 0.5
    translate_y: float = 0.5


UNCHANGED = np.array(astuple(Warp()))


def draw_warp(random: np.random.Generator, hyp: Hyperparameters) -> Warp:
    """Draw a warp within the limits of `hyp`."""
    perspective, shear, translate = hyp.perspective, hyp.shear, hyp.translate
    limits = np.array([perspective, perspective, hyp.degrees, hyp.scale, shear, shear, translate, translate])
    return Warp(*random.uniform(UNCHANGED - limits, UNCHANGED + limits).tolist())


def warp_matrix(warp: Warp, canvas_wh: tuple[int, int], output_wh: tuple[int, int]) -> Matrix:
    """Return (3, 3): centre to the origin, perspective, rotation with scale, shear, shift to the output."""
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


def is_scale_and_shift(matrix: Matrix) -> bool:
    """Return whether a matrix (3, 3) neither rotates, shears, mirrors nor changes the perspective."""
    (width, *first, _), (second, height, _), (*last, _) = matrix.tolist()
    return not any((*first, second, *last)) and width > 0 and height > 0


def warp_image(pixels: Pixels, matrix: Matrix, out: Pixels) -> None:
    """Move the image by `matrix` into `out` (height, width, 3), grey where it is empty."""
    output_wh = out.shape[1], out.shape[0]
    if matrix[2, :2].any():
        cv2.warpPerspective(pixels, matrix, output_wh, dst=out, borderValue=GREY)
    else:
        cv2.warpAffine(pixels, matrix[:2], output_wh, dst=out, borderValue=GREY)


def warp_boxes(
    boxes: Boxes, matrix: Matrix, scale: float, output_wh: tuple[int, int], outlines: Outlines | None = None
) -> Boxes:
    """Return the hulls of the moved boxes inside the output, without those that are mostly cut off.

    Args:
        outlines: of the same objects; the hull of an object with a polygon is that of the polygon.
    """
    if len(boxes) == 0:
        return boxes
    if is_scale_and_shift(matrix):
        hulls = boxes[:, 1:] * matrix[[0, 1, 0, 1], [0, 1, 0, 1]] + matrix[[0, 1, 0, 1], 2]
    else:
        left, top, right, bottom = boxes[:, 1:].T.astype(np.float64)
        corners = np.stack([left, top, right, bottom, left, bottom, right, top], axis=1).reshape(-1, 2)
        moved = np.concatenate([corners, np.ones((len(corners), 1))], axis=1) @ matrix.T
        moved = (moved[:, :2] / moved[:, 2:]).reshape(-1, 4, 2)
        hulls = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    hulls = np.minimum(np.maximum(hulls, 0), 2 * output_wh)
    min_area_fraction: float | npt.NDArray[np.float64] = MIN_AREA_FRACTION
    if outlines is not None and not outlines.is_empty:
        outlined = outlines.counts > 0
        hulls[outlined] = visible_hulls(outlines, matrix, output_wh)[outlined]
        min_area_fraction = np.where(outlined, MIN_AREA_FRACTION_OUTLINED, MIN_AREA_FRACTION)
    kept = is_worth_keeping(boxes[:, 1:] * scale, hulls, min_area_fraction)
    return np.concatenate([boxes[kept, :1], hulls[kept]], axis=1).astype(np.float32)


def is_worth_keeping(
    before_xyxy: npt.NDArray[np.floating],
    after_xyxy: npt.NDArray[np.floating],
    min_area_fraction: float | npt.NDArray[np.float64] = MIN_AREA_FRACTION,
) -> npt.NDArray[np.bool_]:
    """Return a mask (n,) of the boxes that keep enough area, and are neither tiny nor very narrow."""
    width_before, height_before = (before_xyxy[:, 2:] - before_xyxy[:, :2]).T
    width, height = (after_xyxy[:, 2:] - after_xyxy[:, :2]).T
    aspect = np.maximum(width / (height + 1e-16), height / (width + 1e-16))
    fraction = width * height / (width_before * height_before + 1e-16)
    big_enough = (width > MIN_SIDE_PIXELS) & (height > MIN_SIDE_PIXELS)
    return np.asarray(big_enough & (fraction > min_area_fraction) & (aspect < MAX_ASPECT))


def draw_mosaic_centre(random: np.random.Generator, imgsz: int) -> tuple[int, int]:
    """Draw the point (x, y) at which four images meet on a canvas of twice `imgsz`, in its middle half."""
    y, x = random.uniform(imgsz / 2, imgsz * 3 / 2, size=2)
    return int(x), int(y)


def mosaic_tile(
    index: int, tile_wh: tuple[int, int], centre: tuple[int, int], imgsz: int
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Return (target on the canvas, source in the tile), each xyxy, of a tile.

    Tiles 0 to 3 are top left, top right, bottom left and bottom right.
    Each touches the centre with one of its corners; what does not
    fit is cut off.
    """
    (width, height), (x, y), size = tile_wh, centre, 2 * imgsz
    is_right, is_bottom = index % 2 == 1, index >= 2
    left, right = (x, min(x + width, size)) if is_right else (max(x - width, 0), x)
    top, bottom = (y, min(y + height, size)) if is_bottom else (max(y - height, 0), y)
    source_left = 0 if is_right else width - (right - left)
    source_top = 0 if is_bottom else height - (bottom - top)
    source = source_left, source_top, source_left + right - left, source_top + bottom - top
    return (left, top, right, bottom), source


def labels_to_boxes(labels: Labels, width: float, height: float, left: float = 0, top: float = 0) -> Boxes:
    """Return the boxes of labels on an image of `width` x `height` pixels, moved by (left, top)."""
    boxes = np.empty_like(labels)
    boxes[:, 0] = labels[:, 0]
    boxes[:, 1] = (labels[:, 1] - labels[:, 3] / 2) * width + left
    boxes[:, 2] = (labels[:, 2] - labels[:, 4] / 2) * height + top
    boxes[:, 3] = (labels[:, 1] + labels[:, 3] / 2) * width + left
    boxes[:, 4] = (labels[:, 2] + labels[:, 4] / 2) * height + top
    return boxes


def boxes_to_labels(boxes: Boxes, width: int, height: int) -> Labels:
    """Return the labels of boxes, cut at the edges of an image of `width` x `height` pixels."""
    left, right = np.minimum(np.maximum(boxes[:, [1, 3]], 0), width - 1e-3).T
    top, bottom = np.minimum(np.maximum(boxes[:, [2, 4]], 0), height - 1e-3).T
    centres = (left + right) / 2 / width, (top + bottom) / 2 / height
    sizes = (right - left) / width, (bottom - top) / height
    return np.stack([boxes[:, 0], *centres, *sizes], axis=1).astype(np.float32)


def draw_hsv_gains(random: np.random.Generator, hyp: Hyperparameters) -> npt.NDArray[np.float64]:
    """Draw factors (3,) for hue, saturation and value, each uniform over 1 ± its limit."""
    limits = np.array([hyp.hsv_h, hyp.hsv_s, hyp.hsv_v])
    return np.asarray(random.uniform(1 - limits, 1 + limits))


def hsv_matrix(gains: npt.NDArray[np.float64]) -> Matrix:
    """Return (3, 4), with which `cv2.transform` changes hue, saturation and value, to at most 255."""
    return np.concatenate([np.diag(gains), np.full((3, 1), LEVEL_CUT_OFF)], axis=1)


def hsv_tables(gains: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return tables (256, 3) of hue (modulo 180), saturation and value: what `hsv_matrix` makes of each level."""
    tables: npt.NDArray[np.uint8] = np.asarray(cv2.transform(LEVELS, hsv_matrix(gains))[0], dtype=np.uint8)
    num_hues = NUM_HUES if gains[0] <= MAX_COUNTED_HUE_GAIN else 0
    tables[:num_hues, 0] %= NUM_HUES
    tables[num_hues:, 0] = np.arange(num_hues, 256) * gains[0] % NUM_HUES
    return tables


def flip_labels(labels: Labels, *, up_down: bool, left_right: bool) -> Labels:
    """Return the labels of a mirrored image."""
    if up_down:
        labels = _mirrored(labels, 2)
    if left_right:
        labels = _mirrored(labels, 1)
    return labels


def _mirrored(labels: Labels, column: int) -> Labels:
    mirrored: Labels = labels.copy()
    mirrored[:, column] = 1 - mirrored[:, column]
    return mirrored
