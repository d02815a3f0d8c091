"""The count of images that cannot be read any more, over all ranks, and its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.labels import MAX_NAMED, ImageIndex
from hpc_yolo.distributed import World
from hpc_yolo.runs.events import AnyEvent, ImagesReplaced

MAX_FRACTION = 0.01
MIN_LIMIT = 3  # of a small split
HINT = "restore the files, or check the dataset with hpc-yolo data check"


def max_damaged(num_images: int) -> int:
    """Return the most images that may be unreadable in a split of `num_images`."""
    return max(int(num_images * MAX_FRACTION), MIN_LIMIT)


class ReplacedImages:
    """Counts the replaced images of one split, each once."""

    def __init__(self, split: str, index: ImageIndex, world: World, emit: Callable[[AnyEvent], None]) -> None:
        self._split, self._index, self._world, self._emit = split, index, world, emit
        self._known: list[int] = []  # the same on all ranks
        self._new: list[int] = []

    def add(self, images: Iterable[int]) -> None:
        """Add images that this rank has replaced."""
        self._new += [image for image in images if image not in self._known and image not in self._new]

    def report(self, step: int) -> None:
        """Emit how many there are, if there are more than before; all ranks must call this.

        Raises:
            DataError: they are more than a hundredth of the split. The same on all ranks.
        """
        most = max(int(count) for (count,) in self._world.gather_numbers([len(self._new)]))
        if not most:
            return
        rows = self._world.gather_numbers([*self._new, *[-1] * (most - len(self._new))])
        self._known = list(dict.fromkeys([*self._known, *(int(image) for row in rows for image in row if image >= 0)]))
        self._new = []
        total, num_images = len(self._known), self._index.num_images
        first = [self._index.paths[image] for image in self._known[:MAX_NAMED]]
        self._emit(ImagesReplaced(split=self._split, total=total, num_images=num_images, first=first, step=step))
        if total > max_damaged(num_images):
            names = ", ".join(str(Path(path)) for path in first)
            raise DataError(
                f"{total} of {num_images} {self._split} images cannot be read any more, such as {names}; a run goes on "
                f"with at most {max_damaged(num_images)}",
                hint=HINT,
            )
