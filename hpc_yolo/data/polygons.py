"""Polygons of objects, where labels have them.

Those of an image or of a whole split are stored in two flat arrays, so that they are transformed at once and loader
processes share them without copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outlines:
    """Polygons of n objects: `points` (P, 2) x, y of one object after the other, `counts` (n,) how many each has.

    An object that has only a box has 0 points. Coordinates are shares of the image in labels, pixels in `augment`.
    """

    points: Points
    counts: npt.NDArray[np.int64]

    @staticmethod
    def of(polygons: Sequence[Points]) -> Outlines:
        """From a polygon (k, 2) for each object, (0, 2) for one that has only a box."""
        points = np.concatenate([np.zeros((0, 2), dtype=np.float32), *polygons])
        return Outlines(points, np.array([len(polygon) for polygon in polygons], dtype=np.int64))

    @staticmethod
    def none(num_objects: int) -> Outlines:
        """Objects that have only boxes."""
        return Outlines(np.zeros((0, 2), dtype=np.float32), np.zeros(num_objects, dtype=np.int64))

    @staticmethod
    def joined(parts: Sequence[Outlines]) -> Outlines:
        """The objects of all `parts`, in their order."""
        return Outlines(
            np.concatenate([part.points for part in parts]), np.concatenate([part.counts for part in parts])
        )

    @cached_property
    def bounds(self) -> npt.NDArray[np.int64]:
        """(n + 1,): object k has the points from bounds[k] to bounds[k + 1]."""
        return np.concatenate([[0], self.counts.cumsum()])

    @property
    def is_empty(self) -> bool:
        """Whether no object has a polygon."""
        return len(self.points) == 0

    def polygon(self, index: int) -> Points:
        """The points of one object."""
        return self.points[self.bounds[index] : self.bounds[index + 1]]

    def part(self, start: int, stop: int) -> Outlines:
        """The objects from `start` to before `stop`."""
        return Outlines(self.points[self.bounds[start] : self.bounds[stop]], self.counts[start:stop])

    def scaled(self, width: float, height: float, left: float, top: float) -> Outlines:
        """Shares of an image of `width` x `height` pixels -> pixels, moved by (left, top)."""
        return Outlines((self.points * (width, height) + (left, top)).astype(np.float32), self.counts)

    def clipped(self, width: float, height: float) -> Outlines:
        """With each point moved into the image."""
        return Outlines(self.points.clip(0, (width, height)).astype(np.float32), self.counts)


def visible_hulls(
    outlines: Outlines, matrix: npt.NDArray[np.float64], output_wh: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """(n, 4) xyxy of the part of each closed outline that `matrix` (3, 3) moves into the output; zeros where none is.

    Every edge is clipped at the four sides, in homogeneous coordinates, so that what a perspective turns behind the
    viewer is outside. The published recipe samples 1000 points of each outline; this is its limit, for less work.
    """
    starts = np.concatenate([outlines.points, np.ones((len(outlines.points), 1))], axis=1) @ matrix.T
    following = np.arange(1, len(starts) + 1)
    outlined = outlines.counts > 0
    following[outlines.bounds[1:][outlined] - 1] = outlines.bounds[:-1][outlined]
    edges = starts[following] - starts

    distances = _distances(starts, output_wh)
    ends = distances[following]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = distances / (distances - ends)
    enters = np.where((distances < 0) & (ends >= 0), crossings, 0.0).max(axis=1)
    leaves = np.where((distances >= 0) & (ends < 0), crossings, 1.0).min(axis=1)
    seen = (enters <= leaves) & ~((distances < 0) & (ends < 0)).any(axis=1)

    owners = np.repeat(np.arange(len(outlines.counts)), outlines.counts)[seen]
    hulls = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(outlines.counts), 1))
    for share in (enters, leaves):
        points = starts[seen] + share[seen, None] * edges[seen]
        points = points[:, :2] / points[:, 2:].clip(np.finfo(np.float64).tiny)
        np.minimum.at(hulls[:, :2], owners, points)
        np.maximum.at(hulls[:, 2:], owners, points)
    return np.where(np.isfinite(hulls), hulls, 0.0)


def _distances(points: npt.NDArray[np.float64], output_wh: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(P, 4): how far homogeneous points are inside of the left, right, upper and lower side; all scaled alike."""
    x, y, w = points.T
    return np.stack([x, output_wh[0] * w - x, y, output_wh[1] * w - y], axis=1)
