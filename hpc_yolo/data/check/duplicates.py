"""Images that are in a dataset more than once: with the same content, or almost the same look.

Each image is compared with those before it, of its own split and of earlier splits. It has one finding for its own
split and one for others, with the most similar image, so that a thousand equal images are 999 findings and not half a
million pairs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hpc_yolo.data.check.looks import THUMBNAIL_PIXELS, Look, correlations
from hpc_yolo.data.check.near import distances, near_pairs
from hpc_yolo.data.check.result import Item
from hpc_yolo.data.labels import Labels

MIN_CORRELATION = 0.97

Indices = npt.NDArray[np.int64]


class SeenImages:
    """The decodable images of all splits, in the order in which they were added: split after split."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._splits: list[str] = []
        self._split_numbers = array("b")
        self._labels = array("q")
        self._codes = array("Q")
        self._thumbnails = bytearray()
        self._first: dict[tuple[int, bytes], int] = {}
        self._digests: list[bytes] = []

    def add(self, split: str, path: str, look: Look, labels: Labels) -> None:
        """Add one image; the images of one split follow each other."""
        if split not in self._splits:
            self._splits.append(split)
        number = len(self._splits) - 1
        self._first.setdefault((number, look.digest), len(self._paths))
        self._digests.append(look.digest)
        self._paths.append(path)
        self._split_numbers.append(number)
        self._labels.append(hash(frozenset(map(tuple, labels.tolist()))))
        self._codes.append(look.code)
        self._thumbnails += look.thumbnail

    def findings(self) -> Iterator[tuple[str, str, Item]]:
        """Yield (name of the kind, split, finding), image after image."""
        if not self._paths:
            return
        within, across = self._near()
        for image, path in enumerate(self._paths):
            split = self._splits[self._split_numbers[image]]
            same, leaked = self._same_content(image)
            if same is not None:
                kind = "duplicate" if self._labels[same] == self._labels[image] else "contradicting-labels"
                yield kind, split, self._pair(path, same, f"as {self._paths[same]}")
            elif within[image] >= 0:
                yield "near-duplicate", split, self._near_pair(path, image, int(within[image]))
            if leaked is not None:
                yield "leak", split, self._pair(path, leaked, self._named(leaked))
            elif across[image] >= 0:
                yield "near-leak", split, self._near_pair(path, image, int(across[image]))

    def _same_content(self, image: int) -> tuple[int | None, int | None]:
        """Return the first image of the content of `image` in its split, and in an earlier one; None if it is none."""
        number, digest = self._split_numbers[image], self._digests[image]
        first = self._first[number, digest]
        earlier = (self._first.get((other, digest)) for other in range(number))
        return None if first == image else first, next((other for other in earlier if other is not None), None)

    def _near(self) -> tuple[Indices, Indices]:
        """Return for each image the most similar earlier one (in its split, in an earlier split); -1 if there is none.

        Images of one split and hash are compared with others once; all but the first of them are similar to it.
        """
        codes = np.array(self._codes, dtype=np.uint64)
        splits = np.array(self._split_numbers, dtype=np.int64)
        thumbnails = np.frombuffer(bytes(self._thumbnails), dtype=np.uint8).reshape(-1, THUMBNAIL_PIXELS**2)
        keys = np.stack([splits.astype(np.uint64), codes], axis=1)
        _, firsts, groups = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(firsts)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        firsts, groups = firsts[order], rank[groups.ravel()]
        within, across = (_Nearest(len(firsts)) for _ in range(2))
        for pairs in near_pairs(codes[firsts]):
            images = firsts[pairs]
            pairs = pairs[correlations(thumbnails[images[:, 0]], thumbnails[images[:, 1]]) >= MIN_CORRELATION]
            images = firsts[pairs]
            apart = distances(codes[images[:, 0]], codes[images[:, 1]])
            is_within = splits[images[:, 0]] == splits[images[:, 1]]
            within.add(pairs[is_within], apart[is_within])
            across.add(pairs[~is_within], apart[~is_within])
        nearest = [np.where(found >= 0, firsts[found], -1)[groups] for found in (within.earlier(), across.earlier())]
        is_later = np.arange(len(codes)) != firsts[groups]
        is_later &= correlations(thumbnails, thumbnails[firsts[groups]]) >= MIN_CORRELATION
        nearest[0] = np.where(is_later, firsts[groups], nearest[0])
        return nearest[0], nearest[1]

    def _pair(self, path: str, other: int, text: str) -> Item:
        return Item(path, text, path, self._paths[other], self._splits[self._split_numbers[other]])

    def _near_pair(self, path: str, image: int, other: int) -> Item:
        different = (self._codes[image] ^ self._codes[other]).bit_count()
        item = self._pair(path, other, f"near {self._named(other)}, {different} of 64 bits differ")
        return replace(item, weight=-float(different))

    def _named(self, image: int) -> str:
        return f"{self._paths[image]} of {self._splits[self._split_numbers[image]]}"


class _Nearest:
    """For each of `num` images the nearest earlier one, of all pairs that are added."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._best = np.full(num, np.iinfo(np.int64).max)

    def add(self, pairs: Indices, apart: Indices) -> None:
        """Add pairs (n, 2) of (earlier, later), `apart` bits from each other."""
        np.minimum.at(self._best, pairs[:, 1], apart * self._num + pairs[:, 0])

    def earlier(self) -> Indices:
        """Return the nearest earlier image of each; -1 where none was added."""
        return np.where(self._best == np.iinfo(np.int64).max, -1, self._best % self._num)
