"""Colours of images, written to arrays that exist: mapping memory for each image would take as long as the work."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.augment import MAX_COUNTED_HUE_GAIN, hsv_matrix, hsv_tables
from hpc_yolo.data.images import GREY, Pixels, letterbox_frame

# Of cv2.flip, by (up_down, left_right).
FLIP_CODES = {(True, False): 0, (False, True): 1, (True, True): -1}
# Added before rounding to the nearest level, so that levels are cut off instead.
CUT_OFF = -0.498


class Scratch:
    """Arrays of pixels that are used again for every image, by number."""

    def __init__(self) -> None:
        self._levels: dict[int, npt.NDArray[np.uint8]] = {}

    def __call__(self, number: int, height: int, width: int) -> Pixels:
        """Return array `number` (height, width, 3); its content is what was last written there."""
        size = height * width * 3
        if number not in self._levels or self._levels[number].size < size:
            self._levels[number] = np.empty(size, dtype=np.uint8)
        return self._levels[number][:size].reshape(height, width, 3)

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()  # another process makes its own


def write_rgb(
    pixels: Pixels,
    out: Pixels,
    other: Pixels,
    *,
    gains: npt.NDArray[np.float64] | None = None,
    up_down: bool = False,
    left_right: bool = False,
) -> None:
    """Write BGR `pixels` as RGB to `out`, with changed colours and mirrored. All are (height, width, 3).

    Args:
        pixels: are overwritten.
        other: is overwritten, too.
        gains: factors (3,) of hue, saturation and value; see `hsv_matrix`.
    """
    conversion = cv2.COLOR_BGR2RGB
    if gains is not None:
        cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV, dst=other)
        if gains[0] <= MAX_COUNTED_HUE_GAIN:
            cv2.transform(other, hsv_matrix(gains), dst=pixels)  # a quarter of the time of tables
        else:
            cv2.LUT(other, hsv_tables(gains)[None], dst=pixels)
        conversion = cv2.COLOR_HSV2RGB
    is_mirrored = up_down or left_right
    cv2.cvtColor(pixels, conversion, dst=other if is_mirrored else out)
    if is_mirrored:
        cv2.flip(other, FLIP_CODES[up_down, left_right], dst=out)


def frame_rgb(pixels: Pixels, out: Pixels) -> tuple[float, tuple[float, float]]:
    """Write BGR `pixels` as RGB into the middle of `out`, as `letterbox` without `scaleup`; see there for the rest."""
    height, width = pixels.shape[:2]
    ratio, inner, (pad_w, pad_h) = letterbox_frame((width, height), (out.shape[0], out.shape[1]), scaleup=False)
    if (width, height) != inner:
        pixels = np.asarray(cv2.resize(pixels, inner, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    left, top = round(pad_w - 0.1), round(pad_h - 0.1)
    out.fill(GREY[0])
    cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=out[top : top + inner[1], left : left + inner[0]])
    return ratio, (pad_w, pad_h)


def blend_into(first: Pixels, second: Pixels, ratio: float) -> None:
    """Change `first` to `ratio` of itself plus the rest of `second`, cut off to whole levels."""
    cv2.addWeighted(first, ratio, second, 1 - ratio, CUT_OFF, dst=first)
