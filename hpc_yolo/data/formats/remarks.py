"""What a reader notices in the labels of a whole split: kinds of remarks, each with its number and its first place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from hpc_yolo.core.units import counted
from hpc_yolo.data.labels import ImageIndex

WITHOUT_AREA = "left out, without an area in the image"
CUT = "cut at the edges of the image"

SHAPE_SLACK = 0.02  # difference of the ratios of height to width from which an image has another shape than written
MAX_NAMED = 3
Place = TypeVar("Place", int, tuple[str, int])


class Remarks(Generic[Place]):
    """Counts objects by kind of remark. Threads may add at the same time."""

    def __init__(self) -> None:
        self._places: dict[str, list[Place]] = defaultdict(list)

    def add(self, kind: str, place: Place) -> None:
        """Count an object at `place`."""
        self._places[kind].append(place)

    def sentences(self, shown: Callable[[Place], str]) -> list[str]:
        """Return a sentence for each kind; `shown` is the text of a place."""
        return [
            f"{counted(len(places), 'object')} ({shown(min(places))}{', …' if len(places) > 1 else ''}) {kind}"
            for kind, places in sorted(self._places.items())
        ]


def other_shapes(index: ImageIndex, written_wh: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return a remark if images have another shape than is written, such as turned ones.

    Args:
        index: of the images.
        written_wh: width and height by path, of the images for which they are written.
    """
    found = []
    for path, (height, width) in zip(index.paths, index.shapes_hw.tolist(), strict=True):
        own = written_wh.get(path)
        if own is not None and min(own) > 0 and abs(own[1] / own[0] / (height / width) - 1) > SHAPE_SLACK:
            found.append(f"{path}: written as {own[0]:g} x {own[1]:g}, and has {width} x {height} pixels")
    if not found:
        return []
    named = "; ".join(found[:MAX_NAMED]) + ("; …" if len(found) > MAX_NAMED else "")
    return [f"{len(found)} of {counted(index.num_images, 'image')} of another shape than is written: {named}"]
