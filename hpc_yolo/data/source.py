"""Image sources: the interface by which loaders read the pixels of a split's images.

The source here reads image files; one that keeps images in memory is in `cache`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.images import Pixels, read_image, reduction_for, resize_to, resized_wh
from hpc_yolo.data.labels import ImageIndex


class ImageSource(Protocol):
    """The images of a split with their longer side at one size, by their position in the split's `ImageIndex`.

    The size of each is `resized_wh` of its size in the index.
    """

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image, BGR (height, width, 3); the caller must not change them.

        Raises:
            DataError: the image, which the message names, cannot be read or decoded.
        """
        ...


class RecentImages:
    """An image source that keeps the last images that it read of another one, at most `num_images`."""

    def __init__(self, source: ImageSource, num_images: int) -> None:
        self._source, self._num_images = source, num_images
        self._recent: OrderedDict[int, Pixels] = OrderedDict()

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image; see `ImageSource.read`."""
        pixels = self._recent.pop(index, None)
        if pixels is None:
            pixels = self._source.read(index)
        self._recent[index] = pixels
        if len(self._recent) > self._num_images:
            self._recent.popitem(last=False)
        return pixels


class ImageFiles:
    """A source that reads, decodes and resizes an image file on every call.

    A JPEG whose sides are at least twice as long as needed is decoded at the half, a quarter or an eighth of its size.
    That depends on the sizes alone, so that the pixels of an image are the same wherever they are kept.

    Args:
        imgsz: length in pixels of the longer side.
        augment: resize for training; see `resize_to`.
    """

    def __init__(self, index: ImageIndex, imgsz: int, *, augment: bool) -> None:
        self._index, self._imgsz, self._augment = index, imgsz, augment

    def read(self, index: int) -> Pixels:
        """Return the pixels of an image; see `ImageSource.read`.

        A file that was exchanged for an image of another size since the index was made is an error too: the labels are
        not those of its pixels.
        """
        path, (height, width) = self._index.paths[index], self._index.shapes_hw[index].tolist()
        reduction = reduction_for(max(height, width), self._imgsz)
        pixels = read_image(path, reduction)
        if pixels.shape[:2] not in ((height, width), (-(-height // reduction), -(-width // reduction))):
            seen = f"{pixels.shape[1]} x {pixels.shape[0]} pixels" + (f" at 1/{reduction}" if reduction > 1 else "")
            raise DataError(f"{path}: {seen}, but {width} x {height} when the dataset was read")
        # A reduced image is at most twice as large as needed, and bilinear then about as close to the mean as area.
        is_reduced = pixels.shape[0] < height
        return resize_to(pixels, resized_wh(width, height, self._imgsz), augment=self._augment or is_reduced)
