"""Image sources: where the pixels of a split's images come from. Loaders know the interface only.

Here are the interface and the source that reads image files; a source that keeps images in memory is in `cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hpc_yolo.data.images import Pixels, read_image, resize_to


class ImageSource(Protocol):
    """The images of a split with their longer side at one size, by their position in the split's `ImageIndex`."""

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image, BGR (height, width, 3); the caller does not write into them.

        Raises:
            DataError: naming the image, which cannot be read or decoded.
        """
        ...


class ImageFiles:
    """The source that reads, decodes and resizes image files, each time anew.

    Args:
        imgsz: length in pixels of the longer side.
        augment: resize for training; see `resize_to`.
    """

    def __init__(self, paths: Sequence[str], imgsz: int, *, augment: bool) -> None:
        self._paths, self._imgsz, self._augment = paths, imgsz, augment

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image; see `ImageSource.read`."""
        return resize_to(read_image(self._paths[index]), self._imgsz, augment=self._augment)
