"""Reading, resizing and padding images. Pixels are BGR uint8 (height, width, 3); `to_chw_rgb` converts them."""

from __future__ import annotations

import cv2
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.contents import use_content
from hpc_yolo.data.decode import REDUCTIONS
from hpc_yolo.data.decode import Pixels as Pixels
from hpc_yolo.data.image_checks import complete_pixels

GREY = (114, 114, 114)


def read_image(path: str, reduction: int = 1) -> Pixels:
    """Return the pixels of an image.

    Args:
        reduction: a divisor of the sides of a JPEG; see `decode_image`.

    Raises:
        DataError: it cannot be read or decoded, or is a JPEG that is cut off.
    """
    try:
        return use_content(path, lambda content: complete_pixels(path, content, reduction))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(str(error)) from None


def resized_wh(width: int, height: int, imgsz: int) -> tuple[int, int]:
    """Return the width and height of an image with its longer side at `imgsz`, cut off to whole pixels."""
    ratio = imgsz / max(width, height)
    return max(int(width * ratio), 1), max(int(height * ratio), 1)


def reduction_for(longer_side: int, imgsz: int) -> int:
    """Return the largest divisor in `REDUCTIONS` that leaves `longer_side` at `imgsz` at least."""
    return max(reduction for reduction in REDUCTIONS if reduction == 1 or longer_side >= reduction * imgsz)


def resize_to(pixels: Pixels, size_wh: tuple[int, int], *, augment: bool) -> Pixels:
    """Return the image at a size, bilinear, or by area where it shrinks for evaluation."""
    height, width = pixels.shape[:2]
    if (width, height) == size_wh:
        return pixels
    method = cv2.INTER_LINEAR if augment or max(size_wh) > max(width, height) else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, size_wh, interpolation=method), dtype=np.uint8)


def letterbox(
    pixels: Pixels, shape: tuple[int, int], *, auto: bool = False, scaleup: bool = True, stride: int = 32
) -> tuple[Pixels, float, tuple[float, float]]:
    """Return (the image in the middle of a grey one of `shape`, its ratio, (left, top) padding in pixels).

    Args:
        shape: height and width.
        auto: pad only to the next multiple of `stride`.
        scaleup: allow an image to grow.
    """
    height, width = pixels.shape[:2]
    ratio, inner, (pad_w, pad_h) = letterbox_frame((width, height), shape, scaleup=scaleup)
    if auto:
        pad_w, pad_h = 2 * pad_w % stride / 2, 2 * pad_h % stride / 2
    if (width, height) != inner:
        pixels = np.asarray(cv2.resize(pixels, inner, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    top, bottom = round(pad_h - 0.1), round(pad_h + 0.1)
    left, right = round(pad_w - 0.1), round(pad_w + 0.1)
    framed = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=GREY)
    return np.asarray(framed, dtype=np.uint8), ratio, (pad_w, pad_h)


def letterbox_frame(
    wh: tuple[int, int], shape: tuple[int, int], *, scaleup: bool = True
) -> tuple[float, tuple[int, int], tuple[float, float]]:
    """Return (ratio, (width, height) after it, (left, top) padding in pixels) of an image in the middle of `shape`."""
    width, height = wh
    ratio = min(shape[0] / height, shape[1] / width)
    if not scaleup:
        ratio = min(ratio, 1.0)
    inner = max(round(width * ratio), 1), max(round(height * ratio), 1)
    return ratio, inner, ((shape[1] - inner[0]) / 2, (shape[0] - inner[1]) / 2)


def to_chw_rgb(pixels: Pixels) -> Pixels:
    """Return pixels (height, width, BGR) as a contiguous array (RGB, height, width)."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[::-1])
