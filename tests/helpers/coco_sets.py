"""Small datasets in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from image_sets import HEIGHT, JPEG, WIDTH

from hpc_yolo.data.dataset import Dataset, load_dataset
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.scan import scan_split

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
BOX = [15.0, 10.0, 30.0, 20.0]  # the box 0.5 0.5 0.5 0.5 of an image of 60 x 40 pixels
TRIANGLE_PIXELS = [12.0, 8.0, 48.0, 12.0, 24.0, 36.0]
SQUARE_PIXELS = [50.0, 30.0, 56.0, 30.0, 56.0, 36.0, 50.0, 36.0]


def image(number: int | str, **fields: Any) -> dict[str, Any]:
    """Return the entry of an image of 60 x 40 pixels, <number>.jpg."""
    return {"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT, **fields}


def one(number: int | str = 1, category: int = 3, **fields: Any) -> dict[str, Any]:
    """Return an annotation of image `number`: a box in the middle of a cat."""
    return {"image_id": number, "category_id": category, "bbox": BOX, **fields}


def write_coco(
    root: Path,
    annotations: Sequence[dict[str, Any]],
    images: Sequence[dict[str, Any]] | None = None,
    *,
    yaml: str = "",
    **fields: Any,
) -> Path:
    """Write a.json, pictures/<number>.jpg for the entries of images, and d.yaml with both splits; return d.yaml.

    Args:
        images: entries; by default those of the annotations.
        yaml: further lines of d.yaml.
        fields: of the JSON.
    """
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    if images is None:
        images = [image(number) for number in dict.fromkeys(each["image_id"] for each in annotations)]
    for entry in images:
        (root / "pictures" / f"{entry['id']}.jpg").write_bytes(JPEG)
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES, **fields}
    (root / "a.json").write_text(json.dumps(content))
    lines = f"format: coco\ntrain: a.json\nval: a.json\nimages: pictures\n{yaml}"
    (root / "d.yaml").write_text(lines)
    return root / "d.yaml"


def load(root: Path, **options: Any) -> Dataset:
    """Return the dataset that `write_coco` wrote."""
    return load_dataset(root / "d.yaml", **options)


def scanned(root: Path, **options: Any) -> ImageIndex:
    """Return a scan of the dataset that `write_coco` wrote."""
    return scan_split(load(root), "train", **options)
