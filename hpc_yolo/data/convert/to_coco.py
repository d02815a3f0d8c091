"""A dataset in COCO's format: annotations/instances_<split>.json, images/<split>."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hpc_yolo.data.coco_json import COCO_IDS, coco_class_names
from hpc_yolo.data.convert.image import CUT, SourceImage, Written
from hpc_yolo.data.convert.pixels import box_in_pixels, polygon_in_pixels
from hpc_yolo.data.formats.coco_polygons import signed_area
from hpc_yolo.data.formats.objects import LabelledObject


class _Record(NamedTuple):
    """An image, and the JSON of its annotations but their ids, which are known when all images are."""

    image: SourceImage
    annotations: list[bytes]


class CocoTarget:
    """Writes a JSON file for each split; see `Target`.

    Categories have the numbers of COCO for its 80 classes, others count from 1. Images have their names as ids where
    all are numbers, as in COCO; otherwise they count from 1.
    """

    needs_sizes = True
    has_one_root = False

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self._directory, self._names = directory, names
        self._category_ids = COCO_IDS if tuple(names) == coco_class_names() else range(1, len(names) + 1)

    def images_directory(self, split: str) -> PurePosixPath:
        """Return the directory of the images of a split."""
        return PurePosixPath("images", split)

    def write(self, split: str, image: SourceImage) -> Written:  # noqa: ARG002, of the interface
        """Return the annotations of an image, which `end` writes; see `Target.write`."""
        lost: Counter[str] = Counter()
        annotations = [msgspec.json.encode(self._annotation(one, image, lost)) for one in image.objects]
        return Written(_Record(image._replace(objects=[]), annotations), len(annotations), lost)

    def end(self, split: str, records: list[Any]) -> None:
        """Write the file of a split; see `Target.end`."""
        path = self._directory / self._file(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = _image_ids([record.image.name for record in records])
        number = 0
        with path.open("wb") as file:
            file.write(b'{"annotations":[')
            for record, image_id in zip(records, ids, strict=True):
                for one in record.annotations:
                    number += 1
                    ids_of_one = f'{{"id":{number},"image_id":{image_id},'.encode()
                    file.write((b",\n" if number > 1 else b"\n") + ids_of_one + one.removeprefix(b"{"))
            images = [
                {
                    "id": image_id,
                    "file_name": str(record.image.name),
                    "width": record.image.width,
                    "height": record.image.height,
                }
                for record, image_id in zip(records, ids, strict=True)
            ]
            categories = [
                {"id": category_id, "name": name}
                for category_id, name in zip(self._category_ids, self._names, strict=True)
            ]
            file.write(b'\n],"images":' + msgspec.json.encode(images))
            file.write(b',"categories":' + msgspec.json.encode(categories) + b',"info":{},"licenses":[]}\n')

    def yaml(self, splits: list[str], images: Mapping[str, str]) -> dict[str, Any]:
        """Return the content of the dataset YAML; see `Target.yaml`."""
        return {"format": "coco", **{split: str(self._file(split)) for split in splits}, "images": dict(images)}

    def _file(self, split: str) -> PurePosixPath:
        return PurePosixPath("annotations", f"instances_{split}.json")

    def _annotation(self, one: LabelledObject, image: SourceImage, lost: Counter[str]) -> dict[str, Any]:
        segmentation: list[list[float]] = []
        if one.is_polygon:
            numbers = polygon_in_pixels(one.numbers, image.width, image.height)
            points = np.array(numbers).reshape(-1, 2)
            (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
            bbox, area = [left, top, right - left, bottom - top], abs(signed_area(points))
            segmentation = [numbers]
        else:
            bbox, is_cut = box_in_pixels(one.box, image.width, image.height)
            lost[CUT] += is_cut
            area = bbox[2] * bbox[3]
        return {
            "category_id": self._category_ids[int(one.class_index)],
            "bbox": bbox,
            "area": area,
            "iscrowd": int(one.is_crowd),
            "segmentation": segmentation,
        }


def _image_ids(names: Sequence[PurePosixPath]) -> list[int]:
    stems = [name.stem for name in names]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers) and all(numbers):
            return numbers
    return list(range(1, len(names) + 1))
