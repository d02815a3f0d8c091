"""Several polygons of one object as one closed outline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Polygon = npt.NDArray[np.float64]  # (k, 2) x, y


def joined_polygons(polygons: Sequence[Polygon]) -> Polygon:
    """Return one outline (k, 2) around all polygons of an object.

    Each further polygon is joined where it is nearest to those before it: the outline goes there, around the polygon
    and back on the same line, which adds no area. All go around in the same direction, so that areas add up.
    """
    outline = polygons[0]
    for following in polygons[1:]:
        polygon = following if signed_area(following) * signed_area(outline) >= 0 else following[::-1]
        distances = np.square(outline[:, None] - polygon[None]).sum(axis=2)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        detour = np.concatenate([polygon[there:], polygon[: there + 1], outline[here : here + 1]])
        outline = np.concatenate([outline[: here + 1], detour, outline[here + 1 :]])
    return outline


def signed_area(polygon: Polygon) -> float:
    """Return the area in a closed polygon (k, 2), negative if it goes around in the other direction."""
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
