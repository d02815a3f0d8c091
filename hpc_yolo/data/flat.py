"""Sequences kept in flat arrays: the paths of a split's images, and their labels.

A tuple of many small objects is copied by every forked loader worker, because reading an object changes its reference
count and so the page that it is on. A flat array is one object, whose pages all workers share.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.float32]  # (n, 5) class, cxcywh in [0, 1]
Bounds = npt.NDArray[np.int64]  # (N + 1,): item i is from bounds[i] to before bounds[i + 1]
Item = TypeVar("Item")


def bounds_of(lengths: Iterable[int]) -> Bounds:
    """Return the bounds of items of these lengths, one after the other."""
    return np.concatenate([[0], np.fromiter(lengths, dtype=np.int64).cumsum()])


class _Flat(Sequence[Item]):
    """The part that paths and labels have in common: access by position or slice, and comparison of all items."""

    bounds: Bounds

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, position: int) -> Item: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, position: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(position, slice):
            return tuple(self._item(each) for each in range(*position.indices(len(self))))
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return self._item(position % len(self))

    def __iter__(self) -> Iterator[Item]:
        return map(self._item, range(len(self)))

    @abstractmethod
    def _item(self, position: int) -> Item:
        """Return the item at `position`, from 0."""


@dataclass(frozen=True, eq=False)
class FlatPaths(_Flat[str]):
    """Paths, as the bytes that the file system has for them.

    Attributes:
        characters: uint8 (bytes of all paths,).
    """

    characters: npt.NDArray[np.uint8]
    bounds: Bounds

    @staticmethod
    def of(paths: Iterable[str]) -> FlatPaths:
        """Return `paths` in flat arrays."""
        names = [os.fsencode(path) for path in paths]
        return FlatPaths(np.frombuffer(b"".join(names), dtype=np.uint8), bounds_of(map(len, names)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def _item(self, position: int) -> str:
        return os.fsdecode(self.characters[self.bounds[position] : self.bounds[position + 1]].tobytes())


@dataclass(frozen=True, eq=False)
class FlatLabels(_Flat[Labels]):
    """The labels of each image, as views of one array.

    Attributes:
        rows: (objects of all images, 5).
    """

    rows: Labels
    bounds: Bounds

    @staticmethod
    def of(labels: Iterable[Labels]) -> FlatLabels:
        """Return copies of `labels` in one array."""
        parts = list(labels)
        rows = np.concatenate([np.zeros((0, 5), dtype=np.float32), *parts])
        return FlatLabels(rows, bounds_of(map(len, parts)))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Number of objects of each image."""
        return np.diff(self.bounds)

    def _item(self, position: int) -> Labels:
        return self.rows[self.bounds[position] : self.bounds[position + 1]]
