"""The values of a check that are shown: findings by kind, and the totals of each split. Pure values, and their JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hpc_yolo.core.units import short_bytes
from hpc_yolo.data.check.kinds import KINDS, SEVERITIES, Kind, Severity

SPLIT_HEADINGS = (
    *("split", "images", "left out", "without objects", "objects", "most on one", "size"),
    "smallest, median, largest image",
)
MAX_ITEMS = 10_000  # of one kind and split; more are counted only


@dataclass(frozen=True)
class Item:
    """One finding.

    Attributes:
        where: image, file:line or split.
        text: the finding itself, without its location; "" where the kind says all.
        image: image to be shown, or "".
        other, other_split: the other image of a pair, and its split.
        box: position of the box in the labels of the image; see `SplitReader.where`.
        weight: how bad it is among those of its kind; the largest are shown as images.
    """

    where: str
    text: str = ""
    image: str = ""
    other: str = ""
    other_split: str = ""
    box: int | None = None
    weight: float = 0.0


@dataclass
class Finding:
    """All findings of one kind in one split. `items`: the first MAX_ITEMS of `count`."""

    kind: Kind
    split: str
    count: int = 0
    items: list[Item] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """The split, the number and the meaning."""
        split = f"{self.split}: " if self.split else ""
        return f"{split}{self.kind.counted(self.count)} {self.kind.meaning}"

    def worst(self, number: int) -> list[Item]:
        """Return the `number` items of the largest weight, of each image one first."""
        ranked = sorted(self.items, key=lambda item: -item.weight)
        first = list({item.image: item for item in reversed(ranked)}.values())[::-1]
        return first[:number]


@dataclass(frozen=True)
class Illustration:
    """One finding as images: JPEG files with the boxes of the labels.

    Attributes:
        jpeg: the image; its box that the finding is about is emphasised.
        other_jpeg: the other image of a pair; b"" where there is none.
    """

    kind: str
    split: str
    item: Item
    jpeg: bytes
    other_jpeg: bytes = b""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the images of a split in pixels, (width, height) each."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    num_different: int

    def __str__(self) -> str:
        if self.num_different == 1:
            return "all {}x{}".format(*self.median)
        return ", ".join("{}x{}".format(*size) for size in (self.smallest, self.median, self.largest))


@dataclass(frozen=True)
class SplitTotals:
    """Totals of one split.

    Attributes:
        num_images: image files.
        num_usable: images that training uses.
        num_backgrounds: usable images without objects, with or without a label file.
        num_objects, class_counts: of usable images; counts are in the order of the classes.
        most_objects: on one image.
        sizes: None where no image can be decoded.
    """

    num_images: int
    num_usable: int
    num_backgrounds: int
    num_objects: int
    most_objects: int
    num_bytes: int
    class_counts: tuple[int, ...]
    sizes: Sizes | None

    def cells(self) -> list[str]:
        """Return the cells of its row in a table with SPLIT_HEADINGS, but for its name."""
        num_left_out = self.num_images - self.num_usable
        numbers = (self.num_images, num_left_out, self.num_backgrounds, self.num_objects, self.most_objects)
        return [*map(str, numbers), short_bytes(self.num_bytes), str(self.sizes or "–")]


@dataclass(frozen=True)
class CheckResult:
    """All that a check has found. `findings` are in the order of the kinds and splits."""

    dataset: str
    names: tuple[str, ...]
    imgsz: int
    splits: dict[str, SplitTotals]
    findings: tuple[Finding, ...]
    seconds: float

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.count for finding in self.findings if finding.kind.severity == severity)

    def is_clean(self, *, strict: bool) -> bool:
        """Return whether there are no errors, and with `strict` no warnings."""
        return not self.count("error") and not (strict and self.count("warning"))

    @property
    def num_left_out(self) -> int:
        """Number of images that training leaves out."""
        return sum(split.num_images - split.num_usable for split in self.splits.values())

    def as_json(self) -> dict[str, Any]:
        """Return everything in types that JSON supports."""
        return {
            "dataset": self.dataset,
            "imgsz": self.imgsz,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "images_left_out": self.num_left_out,
            "seconds": round(self.seconds, 1),
            "splits": {name: _split_json(split, self.names) for name, split in self.splits.items()},
            "findings": [_finding_json(finding) for finding in self.findings],
        }


class FindingLog:
    """Collects findings: counts all, keeps the first of each kind and split."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Finding] = {}

    def add(self, kind: str, split: str, item: Item) -> None:
        """Add one finding of `kind`, a name in KINDS."""
        finding = self._found.setdefault((kind, split), Finding(KINDS[kind], split))
        finding.count += 1
        if len(finding.items) < MAX_ITEMS:
            finding.items.append(item)

    def sorted(self, splits: Iterable[str]) -> tuple[Finding, ...]:
        """Return the findings: errors first, kinds in the order of KINDS, and those of one kind in that of `splits`."""
        order, kinds = list(splits), sorted(KINDS, key=lambda name: SEVERITIES.index(KINDS[name].severity))
        return tuple(
            self._found[key] for key in sorted(self._found, key=lambda key: (kinds.index(key[0]), order.index(key[1])))
        )


def _split_json(split: SplitTotals, names: Sequence[str]) -> dict[str, Any]:
    content = asdict(split)
    content["class_counts"] = [
        {"name": name, "objects": count} for name, count in zip(names, split.class_counts, strict=True)
    ]
    return content


def _finding_json(finding: Finding) -> dict[str, Any]:
    kind = finding.kind
    items = [
        {
            name: value
            for name, value in asdict(item).items()
            if value not in ("", None) and name not in ("weight", "box")
        }
        for item in finding.items
    ]
    return {
        "kind": kind.name,
        "severity": kind.severity,
        "split": finding.split,
        "count": finding.count,
        "meaning": kind.meaning,
        "remedy": kind.remedy,
        "items": items,
    }
