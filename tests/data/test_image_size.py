"""Sizes of images from their headers: those that decoding has."""

import struct

import cv2
import numpy as np
import pytest
from image_sets import encoded

from hpc_yolo.data.decode import decode_image
from hpc_yolo.data.image_size import size_of_image

PIXELS = np.random.default_rng(0).integers(0, 256, size=(24, 37, 3), dtype=np.uint8)


def with_orientation(jpeg: bytes, orientation: int, order: str = ">") -> bytes:
    """Return `jpeg` with EXIF data behind its start."""
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    mark = b"II" if order == "<" else b"MM"
    tiff = mark + struct.pack(f"{order}HIH", 42, 8, 1) + entry + bytes(4)
    segment = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


JPEG = encoded(".jpg", PIXELS)
PROGRESSIVE = cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


@pytest.mark.parametrize(
    "content",
    [
        JPEG,
        PROGRESSIVE,
        *(with_orientation(JPEG, orientation) for orientation in range(1, 9)),
        with_orientation(JPEG, 6, "<"),
        JPEG[:2] + b"\xff\xff\xff" + JPEG[2:],
        encoded(".png", PIXELS),
        encoded(".bmp", PIXELS),
        encoded(".webp", PIXELS),
        encoded(".tif", PIXELS),
    ],
)
def test_size_is_that_of_the_decoded_image(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    height, width = decode_image(content).shape[:2]
    assert size_of_image(str(path)) == (width, height)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff", JPEG[:30], encoded(".png", PIXELS)[:12]])
def test_what_is_no_image_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.jpg: cannot be decoded"):
        size_of_image(str(path))
