"""Decoded and resized images kept in memory, and the memory that they need."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hpc_yolo.data.images import Pixels
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.source import ImageSource

NUM_THREADS = 8
BYTES_PER_PIXEL = 3


class CachedImages:
    """An image source that reads all images of another one into memory when it is created, in threads.

    Args:
        on_progress: called with (images in memory, all images).

    Raises:
        DataError: an image cannot be read.
    """

    def __init__(
        self,
        source: ImageSource,
        num_images: int,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._images: list[Pixels] = []
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for pixels in pool.map(source.read, range(num_images)):
                self._images.append(pixels)
                on_progress(len(self._images), num_images)

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image; see `ImageSource.read`."""
        return self._images[index]


def cache_bytes(index: ImageIndex, imgsz: int) -> int:
    """Return how many bytes the images of a split take in memory when their longer side is `imgsz`."""
    shapes = index.shapes_hw.astype(np.float64)
    return int((shapes.prod(axis=1) * (imgsz / shapes.max(axis=1)) ** 2 * BYTES_PER_PIXEL).sum())
