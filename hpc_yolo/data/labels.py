"""Labels, and the index of a split: its usable images with their labels, as a scan returns them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.flat import Labels as Labels
from hpc_yolo.data.polygons import Outlines

Crowds = npt.NDArray[np.float32]  # (m, 6) image, class, cxcywh in [0, 1]

NO_LABELS: Labels = np.zeros((0, 5), dtype=np.float32)
NO_CROWDS: Crowds = np.zeros((0, 6), dtype=np.float32)
MAX_PROBLEMS = 20
MAX_NAMED = 3


class Examples(NamedTuple):
    """The number of findings of one kind, and the first of them."""

    total: int = 0
    first: tuple[str, ...] = ()

    @staticmethod
    def of(found: list[str], max_first: int = MAX_NAMED) -> Examples:
        """Return the number of items in `found`, with the first of them."""
        return Examples(len(found), tuple(found[:max_first]))

    def __str__(self) -> str:
        return ", ".join(self.first) + (", …" if self.total > len(self.first) else "")


@dataclass(frozen=True)
class Findings:
    """Findings of a scan that are reported.

    Attributes:
        problems: why images are left out, a sentence each.
        unlabelled: images without labels in the dataset, which are used as background.
        no_end_mark: JPEG files without an end mark, which are used because they have all their pixels.
        remarks: on the labels of the whole split, a sentence each.
    """

    problems: Examples = Examples()  # noqa: RUF009, immutable
    unlabelled: Examples = Examples()  # noqa: RUF009
    no_end_mark: Examples = Examples()  # noqa: RUF009
    remarks: Examples = Examples()  # noqa: RUF009

    def as_json(self) -> dict[str, Examples]:
        """Return the findings by name, in types that JSON supports."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_json(content: dict[str, tuple[int, list[str]]]) -> Findings:
        """Return the findings that `as_json` returned."""
        return Findings(**{name: Examples(total, tuple(first)) for name, (total, first) in content.items()})


@dataclass(frozen=True)
class ImageIndex:
    """The usable images of a split, in flat arrays, which forked loader workers share.

    Attributes:
        paths: addresses of the images; `contents` reads what is there.
        shapes_hw: (N, 2) height and width in pixels, after EXIF rotation.
        labels: (n, 5) for each image: class, cxcywh in [0, 1].
        num_backgrounds: images without objects.
        num_corrupt: images that are left out.
        messages: findings to be reported, a line each.
        digest: changes when the content of an image does; "" where that is not known.
        outlines: of all objects, image after image; of no objects where no label is a polygon.
        crowds: regions of many objects, which are not trained on, and in which detections are ignored.
    """

    paths: FlatPaths
    shapes_hw: npt.NDArray[np.int32]
    labels: FlatLabels
    num_backgrounds: int
    num_corrupt: int
    messages: tuple[str, ...]
    digest: str = ""
    outlines: Outlines = Outlines.none(0)  # noqa: RUF009, frozen
    findings: Findings = Findings()
    crowds: Crowds = field(default_factory=lambda: NO_CROWDS)

    @property
    def num_images(self) -> int:
        """Number of usable images."""
        return len(self.paths)

    @property
    def has_labels(self) -> bool:
        """True if any image has an object."""
        return self.num_backgrounds < self.num_images

    def outlines_of(self, image: int) -> Outlines:
        """Return the outlines of one image's objects, in fractions of the image."""
        start, stop = self.labels.bounds[image], self.labels.bounds[image + 1]
        return Outlines.none(stop - start) if self.outlines.is_empty else self.outlines.part(start, stop)
