"""COCO's annotation file, read and checked before an evaluation.

Missing fields are filled in and images matched to files. An unusable file is an error at once, not after hours.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted
from hpc_yolo.evaluation.coco import CocoKeys, ImageId, fallback_ids

FORM_HINT = "images, annotations and categories are needed, as in instances_val2017.json"
NAMES_HINT = "name the classes in the dataset YAML as the annotations do"
IMAGES_HINT = "write file_name in the annotations with the directories that distinguish the images"
MAX_NAMED = 3


@dataclass(frozen=True)
class Annotations:
    """The content of a COCO file for the images of a split.

    Attributes:
        dataset: the file's content as COCO's library needs it.
        keys: ids of all images of the split, also of those that the file does not have.
        known: of those, the ids that the file has.
        crowds: by image id, (k, 5) class, xyxy in the file's pixels: regions of many objects without own boxes.
        messages: warnings to show before the evaluation.
    """

    path: Path
    dataset: dict[str, Any]
    keys: CocoKeys
    known: tuple[ImageId, ...]
    crowds: dict[ImageId, torch.Tensor]
    messages: tuple[str, ...] = ()


def read_annotations(path: Path, names: Sequence[str], image_paths: Sequence[str]) -> Annotations:
    """Return the annotations in `path` for the classes `names` and the images at `image_paths`.

    Missing `info`, `area`, `iscrowd`, `bbox` (where there are polygons) and ids of annotations are filled in.

    Raises:
        DataError: it is not in COCO's format, lacks a class, or its images cannot be distinguished.
    """
    content = _read_json(path)
    images = list(_images(path, content["images"]))
    categories = _categories(path, content["categories"])
    objects = [_object(f"{path}: annotations[{index}]", one) for index, one in enumerate(content["annotations"])]
    # COCO's library treats id 0 as no match, and equal ids as one object.
    objects = [{**one, "id": number} for number, one in enumerate(objects, 1)]
    used = {one["category_id"] for one in objects}
    category_ids = [_category_id(path, name, categories, used) for name in names]
    found = match_images(path, images, image_paths)
    keys = CocoKeys(category_ids, fallback_ids(image_paths, found, taken={image_id for image_id, _ in images}))
    dataset = {
        "info": {},
        "images": [{"id": image_id} for image_id, _ in images],
        "categories": [{"id": number, "name": name} for name, numbers in categories.items() for number in numbers],
        "annotations": objects,
    }
    known = tuple(image_id for image_id in found if image_id is not None)
    return Annotations(path, dataset, keys, known, _crowds(objects, category_ids), _left_out(path, image_paths, found))


def match_images(
    path: Path, images: Sequence[tuple[ImageId, PurePosixPath]], image_paths: Sequence[str]
) -> list[ImageId | None]:
    """Return the id of each image at `image_paths` among `images` (id, file name), None for one that is missing.

    An image is the one of the same name with which it has most directories in common; where no name is the same, of
    the same name without its suffix, since sets are converted.

    Raises:
        DataError: several match equally well, two files match the same image, or none matches.
    """
    by_name: dict[str, list[tuple[ImageId, PurePosixPath]]] = defaultdict(list)
    by_stem: dict[str, list[tuple[ImageId, PurePosixPath]]] = defaultdict(list)
    for image in images:
        by_name[_composed(image[1].name)].append(image)
        by_stem[_composed(image[1].stem)].append(image)
    nearest: dict[ImageId, tuple[int, int]] = {}  # id -> (directories in common, position of the file)
    for position, text in enumerate(image_paths):
        file = Path(text)
        candidates = by_name.get(_composed(file.name)) or by_stem.get(_composed(file.stem), [])
        if not candidates:
            continue
        image_id, depth = _nearest(path, file, candidates)
        if image_id in nearest and nearest[image_id][0] == depth:
            other = image_paths[nearest[image_id][1]]
            raise DataError(f"{path}: {other} and {file} are both image {image_id!r}", hint=IMAGES_HINT)
        if image_id not in nearest or nearest[image_id][0] < depth:
            nearest[image_id] = depth, position
    if not nearest:
        raise DataError(
            f"{path}: has none of the {counted(len(image_paths), 'image')} ({_some(image_paths)})",
            hint="give the annotations of this split with --annotations FILE",
        )
    found: list[ImageId | None] = [None] * len(image_paths)
    for image_id, (_, position) in nearest.items():
        found[position] = image_id
    return found


def _nearest(path: Path, file: Path, candidates: Sequence[tuple[ImageId, PurePosixPath]]) -> tuple[ImageId, int]:
    """Return (id, number of last directories in common) of the candidate that is nearest to `file`."""
    depths = [_common(file.parent, name.parent) for _, name in candidates]
    nearest = [candidate for candidate, depth in zip(candidates, depths, strict=True) if depth == max(depths)]
    if len(nearest) > 1:
        names = ", ".join(f"{name} (id {image_id!r})" for image_id, name in nearest[:MAX_NAMED])
        raise DataError(f"{path}: {file} may be any of {len(nearest)} images: {names}", hint=IMAGES_HINT)
    return nearest[0][0], max(depths)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _common(first: Path, second: PurePosixPath) -> int:
    """Return how many last directories two paths have in common."""
    depth = 0
    for one, other in zip(reversed(first.parts), reversed(second.parts), strict=False):
        if _composed(one) != _composed(other):
            break
        depth += 1
    return depth


def _left_out(path: Path, image_paths: Sequence[str], found: Sequence[ImageId | None]) -> tuple[str, ...]:
    missing = [image for image, image_id in zip(image_paths, found, strict=True) if image_id is None]
    if not missing:
        return ()
    known = f"{len(found) - len(missing)} of {counted(len(found), 'image')}"
    return (f"official COCO metrics are over {known}: {path} has no others, such as {_some(missing)}",)


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:MAX_NAMED]) + (", …" if len(paths) > MAX_NAMED else "")


def _read_json(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint="--annotations takes COCO's JSON") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not in COCO's format, nor JSON: {error}", hint=FORM_HINT) from error
    if isinstance(content, list):
        raise DataError(f"{path}: is not in COCO's format: a list, as predictions are", hint=FORM_HINT)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: is not in COCO's format: it has no list {key!r}", hint=FORM_HINT)
    return dict(content)


def _images(path: Path, images: list[Any]) -> Iterator[tuple[ImageId, PurePosixPath]]:
    """Yield (id, file name) of each image. The name of one without a name is its id."""
    seen: dict[ImageId, object] = {}
    for index, image in enumerate(images):
        where = f"{path}: images[{index}]"
        image_id = _field(where, image, "id", (int, str))
        name = str(image.get("file_name") or image_id)
        if image_id in seen:
            raise DataError(f"{where}: id {image_id!r} of {name} is that of {seen[image_id]} too")
        seen[image_id] = name
        yield image_id, PurePosixPath(name.replace("\\", "/"))


def _categories(path: Path, categories: list[Any]) -> dict[str, list[int]]:
    """Return the ids of each name; some exports list a name twice, once as the parent category."""
    ids: dict[str, list[int]] = defaultdict(list)
    for index, category in enumerate(categories):
        where = f"{path}: categories[{index}]"
        ids[_field(where, category, "name", (str,))].append(_field(where, category, "id", (int,)))
    return ids


def _category_id(path: Path, name: str, categories: dict[str, list[int]], used: set[int]) -> int:
    ids = categories.get(name, [])
    if not ids:
        raise DataError(
            f"{path}: has no category {name!r}; it has {_some(list(map(repr, categories)))}", hint=NAMES_HINT
        )
    in_use = [number for number in ids if number in used] or ids[:1]
    if len(in_use) > 1:
        raise DataError(f"{path}: category {name!r} has several ids, {in_use}; give them names of their own")
    return in_use[0]


def _object(where: str, one: Any) -> dict[str, Any]:
    """Return an annotation with all fields that COCO's library needs."""
    box = _box(where, one)
    area = one.get("area")
    return {
        "image_id": _field(where, one, "image_id", (int, str)),
        "category_id": _field(where, one, "category_id", (int,)),
        "bbox": box,
        "area": float(area) if isinstance(area, (int, float)) and 0 <= area < math.inf else box[2] * box[3],
        "iscrowd": int(one.get("iscrowd") in (1, True, "1")),
    }


def _box(where: str, one: Any) -> list[float]:
    """Return left, top, width, height: of `bbox`, or around the polygons of `segmentation`."""
    if not isinstance(one, dict):
        raise DataError(f"{where}: {one!r} is not a JSON object", hint=FORM_HINT)
    try:
        if one.get("bbox"):
            left, top, width, height = map(float, one["bbox"])
        else:
            numbers = [list(map(float, polygon)) for polygon in one["segmentation"]]
            xs, ys = [x for line in numbers for x in line[0::2]], [y for line in numbers for y in line[1::2]]
            left, top, width, height = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{where}: bbox {one.get('bbox')!r} is not left, top, width and height, and there is no polygon"
        ) from None
    if not all(map(math.isfinite, (left, top, width, height))) or min(width, height) < 0:
        raise DataError(f"{where}: bbox {one.get('bbox')!r}: width and height must be finite and not negative")
    return [left, top, width, height]


def _field(where: str, one: Any, name: str, kinds: tuple[type, ...]) -> Any:
    value = one.get(name) if isinstance(one, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        allowed = " or ".join({int: "a whole number", str: "text"}[kind] for kind in kinds)
        seen = f"{name} is missing" if value is None else f"{name} {value!r} is not {allowed}"
        raise DataError(f"{where}: {seen}", hint=FORM_HINT)
    return value


def _crowds(objects: list[dict[str, Any]], category_ids: Sequence[int]) -> dict[ImageId, torch.Tensor]:
    class_of = {category: index for index, category in enumerate(category_ids)}
    rows: dict[ImageId, list[list[float]]] = {}
    for one in objects:
        if one["iscrowd"] and one["category_id"] in class_of:
            left, top, width, height = one["bbox"]
            box = [class_of[one["category_id"]], left, top, left + width, top + height]
            rows.setdefault(one["image_id"], []).append(box)
    return {image: torch.tensor(boxes) for image, boxes in rows.items()}
