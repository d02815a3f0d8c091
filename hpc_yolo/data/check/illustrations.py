"""Images of the worst findings of each kind, small, with the boxes of their labels drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.data.check.result import Finding, Illustration
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.decode import Pixels, decode_image
from hpc_yolo.data.formats.split import SplitReader

SIDE_PIXELS = 320
JPEG_QUALITY = 80
MAX_BOXES = 500  # drawn on one image
BOX_BGR, EMPHASISED_BGR, EDGE_BGR = (0, 220, 255), (40, 40, 255), (0, 0, 0)


def illustrate(
    findings: Iterable[Finding], readers: Mapping[str, SplitReader], *, max_of_kind: int = 6
) -> Iterator[Illustration]:
    """Yield the worst findings of each kind and split whose images can be decoded, at most `max_of_kind`."""
    for finding in findings:
        reader = readers.get(finding.split)
        if reader is None:
            continue
        for item in finding.worst(max_of_kind):
            jpeg = _drawn(item.image, item.box, reader) if item.image else b""
            other = _drawn(item.other, None, _reader_of(item.other, reader, readers)) if item.other else b""
            if jpeg:
                yield Illustration(finding.kind.name, finding.split, item, jpeg, other)


def _reader_of(image: str, own: SplitReader, readers: Mapping[str, SplitReader]) -> SplitReader:
    """Return the reader of the split that has `image`."""
    path = Path(image)
    return next((reader for reader in (own, *readers.values()) if path in reader.images), own)


def _drawn(image: str, emphasised: int | None, reader: SplitReader) -> bytes:
    """Return a small JPEG of `image` with its boxes; b"" where nothing of it can be decoded."""
    try:
        pixels = decode_image(read_content(image))
    except OSError:
        return b""
    if pixels is None:
        return b""
    ratio = SIDE_PIXELS / max(pixels.shape[:2])
    size = max(round(pixels.shape[1] * ratio), 1), max(round(pixels.shape[0] * ratio), 1)
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_NEAREST
    small = np.asarray(cv2.resize(pixels, size, interpolation=method), dtype=np.uint8)
    _draw_boxes(small, Path(image), emphasised, reader)
    return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])


def _draw_boxes(pixels: Pixels, image: Path, emphasised: int | None, reader: SplitReader) -> None:
    """Draw the valid boxes of `image`, the one at position `emphasised` last and thicker."""
    try:
        objects = reader.read_each(image) or []
    except (OSError, ValueError):
        return
    height, width = pixels.shape[:2]
    valid = [one for one in objects if one.label]
    shown = [one for one in valid if one.position == emphasised]
    for one in [*[one for one in valid[:MAX_BOXES] if one.position != emphasised], *shown]:
        _, cx, cy, box_width, box_height = one.label
        left, top = round((cx - box_width / 2) * width), round((cy - box_height / 2) * height)
        right, bottom = round((cx + box_width / 2) * width), round((cy + box_height / 2) * height)
        colour, thickness = (EMPHASISED_BGR, 3) if one.position == emphasised else (BOX_BGR, 1)
        cv2.rectangle(pixels, (left, top), (right, bottom), EDGE_BGR, thickness + 2)
        cv2.rectangle(pixels, (left, top), (right, bottom), colour, thickness)
