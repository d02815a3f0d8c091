"""What a target of a conversion gets: an image with its objects; and what it has to be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from hpc_yolo.data.formats.objects import LabelledObject

# What a format cannot have, or has otherwise. Sentences count objects.
CROWDS_LOST = "left out: crowds, which only COCO's format has"
POLYGONS_LOST = "written as boxes: VOC's format has no polygons"
ROUNDED = "moved to whole pixels, by at most half of one"
CUT = "cut at the edges of the image"


class SourceImage(NamedTuple):
    """An image to be written.

    Attributes:
        path: its address.
        name: its path below the directory of the images of its split.
        width, height: in pixels; 0 where neither the target needs them nor the source has them written.
        objects: its objects and crowds.
    """

    path: Path
    name: PurePosixPath
    width: int
    height: int
    objects: list[LabelledObject]


class Written(NamedTuple):
    """What a target has made of an image.

    Attributes:
        record: passed on to `Target.end`.
        num_objects: number of objects written.
        lost: number of objects by what was lost of them.
    """

    record: Any
    num_objects: int
    lost: Mapping[str, int]


class Target(Protocol):
    """A format in which the splits of a dataset are written, below a directory.

    Attributes:
        needs_sizes: sizes of images in pixels are needed.
        has_one_root: names of images are relative to a directory of all splits, not of each.
    """

    needs_sizes: bool
    has_one_root: bool

    def images_directory(self, split: str) -> PurePosixPath:
        """Return the directory of the images of a split, relative to that of the dataset."""
        ...

    def write(self, split: str, image: SourceImage) -> Written:
        """Write an image's labels. Called by many threads.

        Raises:
            OSError: they cannot be written.
        """
        ...

    def end(self, split: str, records: list[Any]) -> None:
        """Write what a split needs after all of its images; `records` are in their order.

        Raises:
            OSError: it cannot be written.
        """
        ...

    def yaml(self, splits: list[str], images: Mapping[str, str]) -> dict[str, Any]:
        """Return the content of the dataset YAML but the names; `images` are the directories of images by split."""
        ...
