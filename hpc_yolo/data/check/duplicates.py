"""Images that are in a dataset more than once: with the same content, or almost the same look.

Each image is compared with those before it, of its own split and of earlier splits. It has one finding for its own
split and one for others, with the most similar image, so that a thousand equal images are 999 findings and not half a
million pairs. Of equal images in a split one is kept, usually the first, and the others have findings.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hpc_yolo.data.check.looks import THUMBNAIL_PIXELS, Look, Thumbnails, correlations
from hpc_yolo.data.check.near import near_pairs
from hpc_yolo.data.check.result import Item
from hpc_yolo.data.labels import Labels

MIN_CORRELATION = 0.97
CHUNK_IMAGES = 1 << 14  # thumbnails that are compared at once
NONE = np.iinfo(np.int64).max

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
        self._kept: dict[tuple[int, bytes], int] = {}  # image of each split and content
        self._ranks = array("b")
        self._digests: list[bytes] = []

    def add(self, split: str, path: str, look: Look, labels: Labels, *, rank: int = 0) -> None:
        """Add one image; the images of one split follow each other.

        Args:
            rank: of equal images in a split the first one of the lowest rank is kept.
        """
        if split not in self._splits:
            self._splits.append(split)
        number = len(self._splits) - 1
        kept = self._kept.setdefault((number, look.digest), len(self._paths))
        if kept < len(self._paths) and rank < self._ranks[kept]:
            self._kept[number, look.digest] = len(self._paths)
        self._ranks.append(rank)
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
            elif within[image] >= 0 and self._digests[within[image]] != self._digests[image]:
                yield "near-duplicate", split, self._near_pair(path, image, int(within[image]))
            if leaked:
                yield "leak", split, self._pair(path, leaked[0], " and ".join(map(self._named, leaked)))
            elif across[image] >= 0:
                yield "near-leak", split, self._near_pair(path, image, int(across[image]))

    def _same_content(self, image: int) -> tuple[int | None, list[int]]:
        """Return the images that are kept of the content of `image`: in its split, and in each earlier one.

        The first is None if it is `image`. The others begin with the nearest split: that one has a finding about the
        next, so that a copy that leaves out the first image of each finding has the content in one split.
        """
        number, digest = self._split_numbers[image], self._digests[image]
        kept = self._kept[number, digest]
        earlier = (self._kept.get((other, digest)) for other in reversed(range(number)))
        return None if kept == image else kept, [other for other in earlier if other is not None]

    def _near(self) -> tuple[Indices, Indices]:
        """Return for each image the most similar earlier one (in its split, in an earlier split); -1 if there is none.

        Images of one split and hash are compared with others once; all but the first of them are similar to it.
        """
        codes = np.array(self._codes, dtype=np.uint64)
        splits = np.array(self._split_numbers, dtype=np.int64)
        thumbnails = np.frombuffer(self._thumbnails, dtype=np.uint8).reshape(-1, THUMBNAIL_PIXELS**2)
        keys = np.stack([splits.astype(np.uint64), codes], axis=1)
        _, firsts, groups = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(firsts)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        firsts, groups = firsts[order], rank[groups.ravel()]
        within, across = (_Nearest(thumbnails[firsts]) for _ in range(2))
        for pairs, apart in near_pairs(codes[firsts]):
            is_within = splits[firsts[pairs[:, 0]]] == splits[firsts[pairs[:, 1]]]
            within.add(pairs[is_within], apart[is_within])
            across.add(pairs[~is_within], apart[~is_within])
        nearest = [np.where(found >= 0, firsts[found], -1)[groups] for found in (within.earlier(), across.earlier())]
        later = np.flatnonzero(np.arange(len(codes)) != firsts[groups])
        for part in np.array_split(later, len(later) // CHUNK_IMAGES + 1):
            is_near = correlations(thumbnails[part], thumbnails[firsts[groups[part]]]) >= MIN_CORRELATION
            nearest[0][part[is_near]] = firsts[groups[part[is_near]]]
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
    """For each image the nearest earlier one, of all pairs that are added. `thumbnails`: of the images."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        self._thumbnails = thumbnails
        self._best = np.full(len(thumbnails), NONE)  # bits that differ, times the number of images, plus the image

    def add(self, pairs: Indices, apart: Indices) -> None:
        """Add pairs (n, 2) of (earlier, later), `apart` bits from each other, if their thumbnails are similar too.

        Of a scene with thousands of images all pairs are near, and few of them are nearer than what is known.
        """
        keys = apart * len(self._best) + pairs[:, 0]
        nearer = np.flatnonzero(keys < self._best[pairs[:, 1]])
        order = nearer[np.argsort(keys[nearer], kind="stable")]
        for part in np.array_split(order, len(order) // CHUNK_IMAGES + 1):
            part = part[keys[part] < self._best[pairs[part, 1]]]
            earlier, later = pairs[part].T
            is_near = correlations(self._thumbnails[earlier], self._thumbnails[later]) >= MIN_CORRELATION
            np.minimum.at(self._best, later[is_near], keys[part[is_near]])

    def earlier(self) -> Indices:
        """Return the nearest earlier image of each; -1 where there is none."""
        return np.where(self._best == NONE, -1, self._best % len(self._best))
