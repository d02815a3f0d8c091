"""Pairs of similar perceptual hashes without comparing all pairs.

If two hashes of 64 bits differ in at most 7, one of their four parts of 16 bits differs in at most one. So each part is
looked up as it is, and with each of its bits changed: about 4 x 17 look-ups an image in sorted arrays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

NUM_PARTS, PART_BITS = 4, 16
MAX_DISTANCE = 2 * NUM_PARTS - 1
CHUNK_PAIRS = 1 << 21

Codes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]
Distances = npt.NDArray[np.int64]
_1, _2, _4, _56 = (np.uint64(number) for number in (1, 2, 4, 56))
_PAIRS, _FOURS, _EIGHTS, _BYTES = (np.uint64(int(byte * 8, 16)) for byte in ("55", "33", "0f", "01"))


def near_pairs(codes: Codes) -> Iterator[tuple[Pairs, Distances]]:
    """Yield (pairs (n, 2) of positions i < j, bits in which they differ) of hashes up to MAX_DISTANCE apart.

    A pair may come more than once. Pairs come in several arrays, each of about CHUNK_PAIRS at most, unless a single
    hash has more.
    """
    for part in range(NUM_PARTS):
        keys = (codes >> np.uint64(part * PART_BITS)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for change in (0, *(1 << bit for bit in range(PART_BITS))):
            changed = keys ^ np.uint16(change)
            first = np.searchsorted(keys, changed, side="left")
            last = np.searchsorted(keys, changed, side="right")
            for pairs in _expanded(first, last):
                found = order[pairs]
                found = found[found[:, 0] < found[:, 1]]
                apart = distances(codes[found[:, 0]], codes[found[:, 1]])
                is_near = apart <= MAX_DISTANCE
                yield found[is_near], apart[is_near]


def distances(first: Codes, second: Codes) -> Distances:
    """Return in how many bits each hash of `first` differs from the one of `second`."""
    counts = first ^ second  # ones are counted in groups of 2, 4, 8 and then all bits
    counts = counts - ((counts >> _1) & _PAIRS)
    counts = (counts & _FOURS) + ((counts >> _2) & _FOURS)
    counts = (counts + (counts >> _4)) & _EIGHTS
    return np.asarray((counts * _BYTES) >> _56, dtype=np.int64)


def _expanded(first: Pairs, last: Pairs) -> Iterator[Pairs]:
    """Yield pairs (i, k) for every k from first[i] to before last[i], about CHUNK_PAIRS at a time."""
    counts = last - first
    ends = counts.cumsum()
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + CHUNK_PAIRS, side="right")), start + 1)
        chunk = counts[start:stop]
        rows = np.repeat(np.arange(start, stop), chunk)
        within = np.arange(len(rows)) - np.repeat(chunk.cumsum() - chunk, chunk)
        yield np.stack([rows, first[rows] + within], axis=1)
        start = stop
