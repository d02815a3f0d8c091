"""Outlines of objects, where labels have polygons.

Those of an image or of a whole split are in two flat arrays, so that they are moved at once and worker processes use
them without copies.
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
    """Polygons of n objects. Coordinates are in [0, 1] in labels and in pixels in `augment`.

    Attributes:
        points: (P, 2) x, y of one object after the other.
        counts: (n,) number of points of each object; 0 for an object that has only a box.
    """

    points: Points
    counts: npt.NDArray[np.int64]

    @staticmethod
    def of(polygons: Sequence[Points]) -> Outlines:
        """Return the outlines of a polygon (k, 2) for each object, (0, 2) for one that has only a box."""
        points = np.concatenate([np.zeros((0, 2), dtype=np.float32), *polygons])
        return Outlines(points, np.array([len(polygon) for polygon in polygons], dtype=np.int64))

    @staticmethod
    def none(num_objects: int) -> Outlines:
        """Return the outlines of objects that have only boxes."""
        return Outlines(np.zeros((0, 2), dtype=np.float32), np.zeros(num_objects, dtype=np.int64))

    @staticmethod
    def joined(parts: Sequence[Outlines]) -> Outlines:
        """Return the outlines of the objects of all `parts`, in their order."""
        return Outlines(
            np.concatenate([part.points for part in parts]), np.concatenate([part.counts for part in parts])
        )

    @cached_property
    def bounds(self) -> npt.NDArray[np.int64]:
        """Bounds (n + 1,): object k has the points from bounds[k] to before bounds[k + 1]."""
        return np.concatenate([[0], self.counts.cumsum()])

    @property
    def is_empty(self) -> bool:
        """True if no object has a polygon."""
        return len(self.points) == 0

    def polygon(self, index: int) -> Points:
        """Return the points of one object."""
        return self.points[self.bounds[index] : self.bounds[index + 1]]

    def part(self, start: int, stop: int) -> Outlines:
        """Return the outlines of the objects from `start` to before `stop`."""
        return Outlines(self.points[self.bounds[start] : self.bounds[stop]], self.counts[start:stop])

    def scaled(self, width: float, height: float, left: float, top: float) -> Outlines:
        """Return outlines in [0, 1] in pixels of an image of `width` x `height`, moved by (left, top)."""
        return Outlines((self.points * (width, height) + (left, top)).astype(np.float32), self.counts)

    def clipped(self, width: float, height: float) -> Outlines:
        """Return the outlines with each point moved into the image."""
        return Outlines(self.points.clip(0, (width, height)).astype(np.float32), self.counts)


def visible_hulls(
    outlines: Outlines, matrix: npt.NDArray[np.float64], output_wh: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Return the hulls (n, 4) xyxy of the part of each closed outline that `matrix` moves into the output.

    A hull is zeros where nothing of an outline is inside. Every edge is clipped at the four sides, in homogeneous
    coordinates, so that points which a perspective moves behind the viewer are outside. The published recipe samples
    1000 points of each outline; this is its limit, for less work.
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
    for fraction in (enters, leaves):
        points = starts[seen] + fraction[seen, None] * edges[seen]
        points = points[:, :2] / points[:, 2:].clip(np.finfo(np.float64).tiny)
        np.minimum.at(hulls[:, :2], owners, points)
        np.maximum.at(hulls[:, 2:], owners, points)
    return np.where(np.isfinite(hulls), hulls, 0.0)


def _distances(points: npt.NDArray[np.float64], output_wh: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the distances (P, 4) of homogeneous points from the left, right, upper and lower side, up to scale."""
    x, y, w = points.T
    return np.stack([x, output_wh[0] * w - x, y, output_wh[1] * w - y], axis=1)
