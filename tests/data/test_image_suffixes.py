"""Suffixes of image files, compared with the formats of the installed OpenCV."""

import cv2
from image_sets import NOISE

from hpc_yolo.data.decode import decode_image
from hpc_yolo.data.image_suffixes import DATASET_SUFFIXES, IMAGE_SUFFIXES, UNREADABLE_SUFFIXES


def test_suffixes_that_opencv_writes_and_reads_are_listed():
    """Probed with the installed OpenCV; a format that it reads by its content may have further suffixes."""
    reads = set()
    for suffix in (*sorted(DATASET_SUFFIXES | UNREADABLE_SUFFIXES), ".new"):
        pixels = NOISE[:, :, 0] if suffix in (".pgm", ".pbm") else NOISE
        try:
            is_written, content = cv2.imencode(suffix, pixels)
        except cv2.error:
            continue
        if is_written and decode_image(content.tobytes()) is not None:
            reads.add(suffix)
    assert reads - {".pfm"} <= DATASET_SUFFIXES, "a map of floats is no image"
    assert {".avif", ".jp2"} <= IMAGE_SUFFIXES


def test_readable_and_unreadable_suffixes_are_disjoint():
    assert not DATASET_SUFFIXES & UNREADABLE_SUFFIXES
