"""The size of an image from the header of its file, as its pixels have it after decoding.

JPEG and PNG are parsed here, which is a hundred times faster than to decode them; other formats are decoded.
"""

from __future__ import annotations

import struct

from hpc_yolo.data.contents import use_content
from hpc_yolo.data.decode import decode_image, describe_content

START_OF_JPEG, START_OF_PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
FRAME_MARKS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, by kind of coding
EXIF_MARK, SCAN_MARK, FILL = 0xE1, 0xDA, 0xFF
EXIF = b"Exif\x00\x00"
ORIENTATION = 0x0112
TURNED = frozenset({5, 6, 7, 8})  # orientations with width and height exchanged


def size_of_image(path: str) -> tuple[int, int]:
    """Return (width, height) in pixels of the image with the address `path`, after EXIF rotation.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no image; the message begins with `path`.
    """
    return use_content(path, lambda content: _size(path, content))


def _size(path: str, content: bytes) -> tuple[int, int]:
    found = _of_jpeg(content) if content.startswith(START_OF_JPEG) else _of_png(content)
    if found is not None:
        return found
    pixels = decode_image(content)
    if pixels is None:
        raise ValueError(f"{path}: cannot be decoded: {describe_content(content)}")
    return pixels.shape[1], pixels.shape[0]


def _of_png(content: bytes) -> tuple[int, int] | None:
    if not content.startswith(START_OF_PNG) or b"eXIf" in content or len(content) < 24:
        return None
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def _of_jpeg(content: bytes) -> tuple[int, int] | None:
    """Return the size in the first frame of a JPEG; None where the header is damaged."""
    position, is_turned = 2, False
    while position + 4 <= len(content) and content[position] == FILL:
        mark = content[position + 1]
        if mark == FILL:
            position += 1
            continue
        (length,) = struct.unpack(">H", content[position + 2 : position + 4])
        segment = content[position + 4 : position + 2 + length]
        if mark in FRAME_MARKS and len(segment) >= 5:
            height, width = struct.unpack(">HH", segment[1:5])
            if min(height, width) == 0:
                return None
            return (height, width) if is_turned else (width, height)
        if mark == EXIF_MARK and segment.startswith(EXIF):
            is_turned = _orientation(segment[len(EXIF) :]) in TURNED
        position += 2 + length
    return None


def _orientation(tiff: bytes) -> int:
    """Return the orientation in EXIF data, 0 where it has none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 0
    (start,) = struct.unpack(f"{order}I", tiff[4:8])
    if start + 2 > len(tiff):
        return 0
    (count,) = struct.unpack(f"{order}H", tiff[start : start + 2])
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, _, _, value, _ = struct.unpack(f"{order}HHIHH", tiff[entry : entry + 12])
        if tag == ORIENTATION:
            return int(value)
    return 0
