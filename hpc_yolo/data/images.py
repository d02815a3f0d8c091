"""Reading, resizing and padding images. Pixels are BGR uint8 (height, width, 3); `to_chw_rgb` converts them."""

from __future__ import annotations

import cv2
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.decode import Pixels as Pixels
from hpc_yolo.data.decode import decode_image, describe_content

GREY = (114, 114, 114)


def read_image(path: str) -> Pixels:
    """Return the pixels of an image; of a JPEG that is cut off, the part that exists.

    Raises:
        DataError: it cannot be read or decoded.
    """
    try:
        content = read_content(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    pixels = decode_image(content)
    if pixels is None:
        raise DataError(f"{path}: cannot be decoded: {describe_content(content)}")
    return pixels


def resize_to(pixels: Pixels, imgsz: int, *, augment: bool) -> Pixels:
    """Return the image with its longer side at `imgsz`, bilinear, or by area where an image shrinks for evaluation."""
    height, width = pixels.shape[:2]
    ratio = imgsz / max(height, width)
    if ratio == 1:
        return pixels
    method = cv2.INTER_LINEAR if augment or ratio > 1 else cv2.INTER_AREA
    resized = cv2.resize(pixels, (max(int(width * ratio), 1), max(int(height * ratio), 1)), interpolation=method)
    return np.asarray(resized, dtype=np.uint8)


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
    ratio = min(shape[0] / height, shape[1] / width)
    if not scaleup:
        ratio = min(ratio, 1.0)
    inner = max(round(width * ratio), 1), max(round(height * ratio), 1)
    pad_w, pad_h = float(shape[1] - inner[0]), float(shape[0] - inner[1])
    if auto:
        pad_w, pad_h = pad_w % stride, pad_h % stride
    pad_w, pad_h = pad_w / 2, pad_h / 2
    if (width, height) != inner:
        pixels = np.asarray(cv2.resize(pixels, inner, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    top, bottom = round(pad_h - 0.1), round(pad_h + 0.1)
    left, right = round(pad_w - 0.1), round(pad_w + 0.1)
    framed = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=GREY)
    return np.asarray(framed, dtype=np.uint8), ratio, (pad_w, pad_h)


def to_chw_rgb(pixels: Pixels) -> Pixels:
    """Return pixels (height, width, BGR) as a contiguous array (RGB, height, width)."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[::-1])
