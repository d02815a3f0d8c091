"""A dataset in Pascal VOC's format: Annotations, JPEGImages, ImageSets/Main/<split>.txt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

from hpc_yolo.data.convert.image import CROWDS_LOST, CUT, POLYGONS_LOST, ROUNDED, SourceImage, Written
from hpc_yolo.data.convert.names import require_listed
from hpc_yolo.data.convert.pixels import whole_pixels
from hpc_yolo.data.formats.objects import LabelledObject, cut_box
from hpc_yolo.data.voc_files import ANNOTATIONS, IMAGES, LISTS, SIDES, XML


class VocTarget:
    """Writes an XML file for each image and a list for each split; see `Target`."""

    needs_sizes = True
    has_one_root = True

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self._directory, self._names = directory, names

    def images_directory(self, split: str) -> PurePosixPath:  # noqa: ARG002, of the interface
        """Return the directory of all images."""
        return PurePosixPath(IMAGES)

    def write(self, split: str, image: SourceImage) -> Written:  # noqa: ARG002
        """Write the XML of an image; see `Target.write`."""
        path = self._directory / ANNOTATIONS / image.name.with_suffix(XML)
        path.parent.mkdir(parents=True, exist_ok=True)
        lost: Counter[str] = Counter()
        objects = [one for one in image.objects if not one.is_crowd]
        lost[CROWDS_LOST] = len(image.objects) - len(objects)
        elements = "".join(self._element(one, image, lost) for one in objects)
        path.write_text(
            f"<annotation>\n  <folder>{escape(str(image.name.parent))}</folder>\n"
            f"  <filename>{escape(image.name.name)}</filename>\n"
            f"  <size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>\n"
            f"  <segmented>0</segmented>\n{elements}</annotation>\n",
            encoding="utf-8",
        )
        return Written(str(image.name.with_suffix("")), len(objects), lost)

    def end(self, split: str, records: list[Any]) -> None:
        """Write the list of a split; see `Target.end`."""
        path = self._directory / self._list(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in records), encoding="utf-8")
        require_listed(path, records, self._directory)

    def yaml(self, splits: list[str], images: Mapping[str, str]) -> dict[str, Any]:
        """Return the content of the dataset YAML; see `Target.yaml`."""
        lists = {split: str(self._list(split)) for split in splits}
        return {"format": "voc", **lists, "annotations": ANNOTATIONS, "images": next(iter(images.values()))}

    def _list(self, split: str) -> PurePosixPath:
        return PurePosixPath(LISTS, "Main", f"{split}.txt")

    def _element(self, one: LabelledObject, image: SourceImage, lost: Counter[str]) -> str:
        cx, cy, width, height = one.box
        inside, is_cut = cut_box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        sides, is_moved = whole_pixels(inside or one.box, image.width, image.height)
        lost.update({CUT: is_cut, POLYGONS_LOST: one.is_polygon, ROUNDED: is_moved})
        box = "".join(f"<{name}>{side}</{name}>" for name, side in zip(SIDES, sides, strict=True))
        return (
            f"  <object>\n    <name>{escape(self._names[int(one.class_index)])}</name>\n    <pose>Unspecified</pose>\n"
            f"    <truncated>0</truncated>\n    <difficult>0</difficult>\n    <bndbox>{box}</bndbox>\n  </object>\n"
        )
