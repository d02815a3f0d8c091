"""Suffixes of image files: of those that OpenCV decodes, and of those that it does not.

Builds of OpenCV differ; the scan reports a file that the installed one cannot decode.
"""

from __future__ import annotations

JPEG_SUFFIXES = frozenset((".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"))
_JPEG_2000 = frozenset((".j2c", ".j2k", ".jp2", ".jpc"))
_NETPBM = frozenset((".pam", ".pbm", ".pgm", ".pnm", ".ppm"))
_OTHERS = frozenset((".apng", ".avif", ".bmp", ".dib", ".hdr", ".pic", ".png", ".ras", ".sr", ".webp"))
_TIFF = frozenset((".dng", ".tif", ".tiff"))

IMAGE_SUFFIXES = JPEG_SUFFIXES | _JPEG_2000 | _NETPBM | _OTHERS | _TIFF
DATASET_SUFFIXES = IMAGE_SUFFIXES | {".gif"}  # a dataset uses the first frame, `predict` all

_RAW = frozenset(
    (".3fr", ".arw", ".cr2", ".cr3", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srf")
)
_HEIF = frozenset((".heic", ".heif", ".hif"))
_DRAWING = frozenset((".eps", ".ico", ".psb", ".psd", ".svg", ".svgz", ".wmf", ".xcf"))
_RARE = frozenset((".dcm", ".dds", ".exr", ".jls", ".jxl", ".jxr", ".pcx", ".pfm", ".sgi", ".tga"))

UNREADABLE_SUFFIXES = _RAW | _HEIF | _DRAWING | _RARE
