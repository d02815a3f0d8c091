"""Decoding image files.

The content determines the format, never the suffix. A JPEG is complete if all its pixels can be decoded: neither bytes
after the end mark nor a missing end mark alone are damage.
"""

from __future__ import annotations

import functools
import zlib

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.heap import keep_freed_memory

Pixels = npt.NDArray[np.uint8]

START_OF_JPEG = b"\xff\xd8"
START_OF_SCAN = 0xDA
FILL_BYTE = 0xFF
END_OF_JPEG = b"\xff\xd9"
PADDING = b"\x00\xff"
DATA_LIKE_PADDING = (b"\x00", b"\xff\x00", b"\xff\x00\x00")  # ends of image data, in which 0 follows each 0xff
PROBE_BYTES = 1 << 16
NO_MEMORY = -4  # code of OpenCV's errors
# Flags of OpenCV by the divisor of an image's sides. A JPEG is reduced by its decoder, which averages.
REDUCTIONS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

# (offset, first bytes there, name of the format)
FORMATS = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (4, b"ftyp", "a video (MP4)"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file with: git lfs pull"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML"),
)
# The likely damage of a file of a format that OpenCV decodes, or decodes in some builds.
DECODED = (
    dict.fromkeys(("JPEG", "PNG", "BMP", "WebP"), ", damaged or cut off")
    | {"TIFF": ", damaged, cut off or of samples that OpenCV does not read, such as 32-bit ones: write 8 or 16 bits"}
    | dict.fromkeys(
        ("GIF", "AVIF", "JPEG 2000", "OpenEXR"), ", damaged, cut off or not supported by this build of OpenCV"
    )
)
HTML_STARTS = (b"<!doctype html", b"<html", b"<head")

_complete: set[tuple[int, int]] = (
    set()
)  # length and CRC-32 of contents that are not cut off, though they lack an end mark


def prepare_decoder() -> None:
    """Set this process up for decoding many images.

    OpenCV's warnings about files are suppressed, as the caller reports problems, and memory is used again.
    """
    keep_freed_memory()
    if hasattr(cv2, "setLogLevel"):  # of version 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode_image(content: bytes, reduction: int = 1) -> Pixels | None:
    """Return the pixels, BGR (H, W, 3), or None where nothing can be decoded.

    Of a JPEG that is cut off, the existing part is returned; see `is_cut_off`.

    Args:
        reduction: a divisor of the sides, one of `REDUCTIONS`; only that of a JPEG is applied, and saves time there.

    Raises:
        HpcYoloError: there is no memory for the pixels, which says nothing of the file.
    """
    if not content.startswith(START_OF_JPEG):
        return _imdecode(content)
    # Without an end mark some versions of OpenCV return nothing, or lose the last pixels.
    return _imdecode(content + END_OF_JPEG if lacks_end_mark(content) else content, REDUCTIONS[reduction])


def lacks_end_mark(content: bytes) -> bool:
    """Return whether `content` is a JPEG without an end mark; that of an embedded thumbnail does not count."""
    if not content.startswith(START_OF_JPEG) or content.endswith(END_OF_JPEG):
        return False
    return content.find(END_OF_JPEG, _first_scan(content)) < 0


def is_cut_off(content: bytes, pixels: Pixels, reduction: int = 1) -> bool:
    """Return whether pixels are missing from a JPEG that `lacks_end_mark` and decodes to `pixels` with `reduction`.

    If all image data exists, other padding bytes do not change the pixels; else they are decoded as image data. That is
    seen once in a process for each content.
    """
    key = len(content), zlib.crc32(content)
    if key not in _complete:
        stripped = content.rstrip(PADDING)
        ends = (stripped, content) if content[len(stripped) :] in DATA_LIKE_PADDING else (stripped,)
        probes = (_imdecode(end + _probe() + END_OF_JPEG, REDUCTIONS[reduction]) for end in ends)
        if not any(probed is not None and np.array_equal(probed, pixels) for probed in probes):
            return True
        _complete.add(key)
    return False


def describe_content(content: bytes) -> str:
    """Return a description of the bytes of a file that cannot be decoded, with their number, for messages."""
    if not content:
        return "an empty file"
    size = f"{len(content)} bytes"
    if not content.strip(b"\x00"):
        return f"nothing but zeros, {size}"
    if content.lstrip().lower().startswith(HTML_STARTS):
        return f"an HTML page, {size}"
    for offset, start, name in FORMATS:
        if content.startswith(start, offset):
            return f"{name}, {size}{DECODED.get(name, '')}"
    return f"{'text' if _is_text(content) else 'an unknown format'}, {size}"


def _imdecode(content: bytes, flags: int = cv2.IMREAD_COLOR) -> Pixels | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error as error:  # empty content, or more pixels than OpenCV allows
        if error.code == NO_MEMORY:
            hint = "request more memory (cluster.mem), or fewer train.workers"
            raise HpcYoloError(f"no memory is left to decode an image: {error.err}", hint=hint) from error
        return None
    if pixels is not None and pixels.ndim == 2:  # a grey float map, in spite of IMREAD_COLOR
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return None if pixels is None else np.asarray(pixels, dtype=np.uint8)


def _first_scan(jpeg: bytes) -> int:
    """Return the offset of the first scan of a JPEG, behind its header segments, or of the first invalid byte."""
    position = len(START_OF_JPEG)
    while position + 4 <= len(jpeg) and jpeg[position] == FILL_BYTE and jpeg[position + 1] != START_OF_SCAN:
        if jpeg[position + 1] == FILL_BYTE:
            position += 1
        else:
            position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return position


@functools.cache
def _probe() -> bytes:
    """Return bytes that a decoder reads as image data: any except the first byte of a marker."""
    return np.random.default_rng(0).integers(0, FILL_BYTE, PROBE_BYTES, dtype=np.uint8).tobytes()


def _is_text(content: bytes) -> bool:
    try:
        return content[:1024].decode("utf-8", errors="strict" if len(content) <= 1024 else "ignore").isprintable()
    except UnicodeDecodeError:
        return False
