"""Image sources: the interface by which loaders read the pixels of a split's images.

The source here reads image files; one that keeps images in memory is in `cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hpc_yolo.data.images import Pixels, read_image, resize_to


class ImageSource(Protocol):
    """The images of a split with their longer side at one size, by their position in the split's `ImageIndex`."""

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image, BGR (height, width, 3); the caller must not change them.

        Raises:
            DataError: the image, which the message names, cannot be read or decoded.
        """
        ...


class ImageFiles:
    """A source that reads, decodes and resizes an image file on every call.

    Args:
        imgsz: length in pixels of the longer side.
        augment: resize for training; see `resize_to`.
    """

    def __init__(self, paths: Sequence[str], imgsz: int, *, augment: bool) -> None:
        self._paths, self._imgsz, self._augment = paths, imgsz, augment

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image; see `ImageSource.read`."""
        return resize_to(read_image(self._paths[index]), self._imgsz, augment=self._augment)
