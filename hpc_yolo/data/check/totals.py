"""Totals of a split, summed up image by image."""

from __future__ import annotations

from array import array

import numpy as np

from hpc_yolo.data.check.image import ImageFindings
from hpc_yolo.data.check.result import Sizes, SplitTotals
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.labels import NO_LABELS, ImageIndex


class TotalsOfSplit:
    """Sums up the images of one split. `num_classes`: in its labels."""

    def __init__(self, num_classes: int) -> None:
        self._class_counts = np.zeros(num_classes, dtype=np.int64)
        self._num_images = self._num_usable = self._num_backgrounds = 0
        self._most_objects = self._num_bytes = 0
        self._heights, self._widths = array("i"), array("i")
        self._usable: list[str] = []
        self._usable_shapes = array("i")

    def add(self, image: str, checked: ImageFindings) -> None:
        """Count one image."""
        self._num_images += 1
        self._num_bytes += checked.num_bytes
        if checked.look is not None:
            self._heights.append(checked.shape_hw[0])
            self._widths.append(checked.shape_hw[1])
        if not checked.is_usable:
            return
        self._usable.append(image)
        self._usable_shapes.extend(checked.shape_hw)
        num_objects = len(checked.labels)
        self._num_usable += 1
        self._num_backgrounds += num_objects == 0
        self._most_objects = max(self._most_objects, num_objects)
        if num_objects:
            self._class_counts += np.bincount(checked.labels[:, 0].astype(np.int64), minlength=len(self._class_counts))

    def result(self) -> SplitTotals:
        """Return the totals of all images that were added."""
        return SplitTotals(
            num_images=self._num_images,
            num_usable=self._num_usable,
            num_backgrounds=self._num_backgrounds,
            num_objects=int(self._class_counts.sum()),
            most_objects=self._most_objects,
            num_bytes=self._num_bytes,
            class_counts=tuple(self._class_counts.tolist()),
            sizes=self._sizes(),
        )

    def index(self) -> ImageIndex:
        """Return the usable images with their sizes, without labels: what readers need for remarks on the split."""
        return ImageIndex(
            paths=FlatPaths.of(self._usable),
            shapes_hw=np.array(self._usable_shapes, dtype=np.int32).reshape(-1, 2),
            labels=FlatLabels.of([NO_LABELS] * len(self._usable)),
            num_backgrounds=self._num_backgrounds,
            num_corrupt=self._num_images - self._num_usable,
            messages=(),
        )

    def _sizes(self) -> Sizes | None:
        """Return the sizes by area."""
        if not self._heights:
            return None
        sides = np.stack([np.array(self._widths), np.array(self._heights)], axis=1)
        ordered = sides[np.argsort(sides.astype(np.int64).prod(axis=1), kind="stable")]
        smallest, median, largest = ((int(w), int(h)) for w, h in ordered[[0, (len(ordered) - 1) // 2, -1]])
        return Sizes(smallest, median, largest, len(np.unique(sides, axis=0)))
