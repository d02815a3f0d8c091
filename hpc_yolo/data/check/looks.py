"""How similar two images look: a perceptual hash of 64 bits, and a thumbnail that confirms what hashes suggest.

The hash is the signs of the lowest frequencies of the grey image against their median, so that size, quality of the
JPEG, brightness and contrast hardly change it. See benchmarks/README.md for the distances that were measured.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.decode import Pixels

SIDE_PIXELS = 32
NUM_FREQUENCIES = 8  # along each side
THUMBNAIL_PIXELS = 16

Thumbnails = npt.NDArray[np.uint8]  # (n, THUMBNAIL_PIXELS squared) grey


class Look(NamedTuple):
    """The content of an image, for comparisons.

    Attributes:
        digest: SHA-256 of the file.
        code: perceptual hash of 64 bits.
        thumbnail: grey pixels, THUMBNAIL_PIXELS squared.
    """

    digest: bytes
    code: int
    thumbnail: bytes


def look_of(content: bytes, pixels: Pixels) -> Look:
    """Return the look of an image file with the bytes `content`, which decode to `pixels`."""
    size = (SIDE_PIXELS, SIDE_PIXELS)
    grey = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    thumbnail = cv2.resize(grey, (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(grey.astype(np.float32))[:NUM_FREQUENCIES, :NUM_FREQUENCIES].ravel()
    frequencies[0] = 0  # the mean brightness
    bits = np.packbits(frequencies > np.median(frequencies[1:]))
    return Look(hashlib.sha256(content).digest(), int.from_bytes(bits.tobytes(), "big"), thumbnail.tobytes())


def correlations(first: Thumbnails, second: Thumbnails) -> npt.NDArray[np.float64]:
    """Return the correlation (n,) of each thumbnail of `first` with the one of `second`; 0 where one is of one grey."""
    one, other = (
        part.astype(np.float32) - part.mean(axis=1, keepdims=True, dtype=np.float32) for part in (first, second)
    )
    products = np.einsum("nk,nk->n", one, other, dtype=np.float64)
    lengths = np.sqrt(np.einsum("nk,nk->n", one, one) * np.einsum("nk,nk->n", other, other))
    return np.asarray(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))
