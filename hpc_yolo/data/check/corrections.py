"""What a corrected copy of a dataset leaves out and changes, as the check decides it."""

from __future__ import annotations

import os
from collections import defaultdict

from hpc_yolo.data.check.result import Item

# The reason for which an image is left out, or a line is changed, is the name of the kind of finding.
IMAGES_LEFT_OUT = ("unusable-image", "unreadable-labels", "duplicate", "contradicting-labels", "leak")
LINES_CHANGED = ("invalid-label", "beyond-frame", "no-area", "repeated-box")


def is_listable(image: str) -> bool:
    """Return whether a list, which has a line for each image, can have `image`."""
    return "\n" not in os.path.basename(image)  # noqa: PTH119, of many thousands


class Corrections:
    """Collects the images to be left out and the label lines to be changed.

    Attributes:
        images: reason by image, of each split.
        lines: reason by position in the labels (see `SplitReader.where`), of each split and image.
    """

    def __init__(self) -> None:
        self.images: dict[str, dict[str, str]] = defaultdict(dict)
        self.lines: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))

    def add(self, kind: str, split: str, item: Item) -> None:
        """Add a finding. Of two images in two splits, that of the earlier split is left out: train before val.

        It stays if the other cannot be listed and is left out too.
        """
        if kind == "leak":
            if is_listable(item.image):
                self.images[item.other_split].setdefault(item.other, kind)
        elif kind in IMAGES_LEFT_OUT:
            self.images[split].setdefault(item.image, kind)
        elif kind in LINES_CHANGED and item.box is not None:
            self.lines[split][item.image].setdefault(item.box, kind)
