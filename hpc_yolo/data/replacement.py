"""Images that can no longer be read when a sample is made of them: each is replaced by the next one of its split.

Which images a sample has depends on its files alone: a process knows nothing of an image before it needs its pixels,
and forgets it after the sample. As long as the same files are damaged, a sample is the same in every process, on every
rank and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.images import Pixels
from hpc_yolo.data.source import ImageSource

Sample = TypeVar("Sample")
MAX_REPLACED = 8  # of one sample: with more unreadable images in it, the cause is not in the files


class _UnreadableImage(Exception):
    def __init__(self, image: int, error: DataError) -> None:
        super().__init__(image, error)
        self.image, self.error = image, error


class ReplacingImages:
    """Reads the images of samples.

    Args:
        num_images: of the split.
        max_replaced: the most images that are replaced in one sample; 0: none, an unreadable image is an error.
    """

    def __init__(self, source: ImageSource, num_images: int, max_replaced: int = MAX_REPLACED) -> None:
        self._source, self._num_images = source, num_images
        self._max_replaced = min(max_replaced, num_images - 1)
        self._replaced: dict[int, int] = {}  # in the sample that is made now
        self._found: set[int] = set()

    def usable(self, image: int) -> int:
        """Return `image`, or the one that replaces it in the sample that is made now."""
        while image in self._replaced:
            image = self._replaced[image]
        return image

    def read(self, image: int) -> Pixels:
        """Return the pixels of a usable image, within `make`."""
        try:
            return self._source.read(image)
        except DataError as error:
            raise _UnreadableImage(image, error) from error

    def make(self, draw: Callable[[], Sample]) -> Sample:
        """Return what `draw` returns, which starts anew after each image that it could not read.

        Raises:
            DataError: the first of the images, where too many cannot be read.
        """
        self._replaced, first = {}, None
        while True:
            try:
                return draw()
            except _UnreadableImage as unreadable:
                first = first or unreadable.error
                if len(self._replaced) >= self._max_replaced:
                    raise first from None
                self._replaced[unreadable.image] = (unreadable.image + 1) % self._num_images
                self._found.add(unreadable.image)

    def take_found(self) -> tuple[int, ...]:
        """Return the images that were replaced since the last call."""
        found, self._found = tuple(sorted(self._found)), set()
        return found
