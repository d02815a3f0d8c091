"""Decision whether an image can be used for training, for loaders, scans and `hpc-yolo data check`."""

from __future__ import annotations

from pathlib import Path

from hpc_yolo.data.decode import Pixels, decode_image, describe_content, is_cut_off, lacks_end_mark

MIN_SIDE_PIXELS = 10


def complete_pixels(image: Path | str, content: bytes, reduction: int = 1) -> Pixels:
    """Return the pixels of an image, given the bytes of its file.

    Args:
        reduction: see `decode_image`.

    Raises:
        ValueError: it cannot be decoded completely; the message names the image.
    """
    pixels = decode_image(content, reduction)
    if pixels is None:
        raise ValueError(f"{image}: cannot be decoded: {describe_content(content)}")
    if lacks_end_mark(content) and is_cut_off(content, pixels, reduction):
        raise ValueError(f"{image}: the JPEG is cut off (no end mark in {len(content)} bytes)")
    return pixels


def usable_pixels(image: Path, content: bytes) -> Pixels:
    """Return the pixels of an image, given the bytes of its file.

    Raises:
        ValueError: it cannot be decoded completely, or is too small; the message names the image.
    """
    pixels = complete_pixels(image, content)
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE_PIXELS:
        raise ValueError(f"{image}: {width} x {height} pixels; at least {MIN_SIDE_PIXELS} on each side are needed")
    return pixels


def describe_os_error(image: Path, error: OSError) -> str:
    """Return why the file that `error` names, by default `image`, cannot be read; of a dangling link its target."""
    path = Path(error.filename or image)
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"{path}: is a link to {path.readlink()}, which does not exist"
    return f"{path}: cannot be read: {error.strerror}"
