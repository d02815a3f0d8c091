"""Detections as COCO's JSON has them, and the official numbers from COCO's own library."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import torch
import yaml

from hpc_yolo.errors import DataError, HpcYoloError
from hpc_yolo.resources import resource_folder

# COCO numbered 91 kinds of things and labelled 80 of them.
COCO_IDS = tuple(number for number in range(1, 91) if number not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
INSTALL = "pip install 'hpc-yolo[coco]'"


class Prediction(msgspec.Struct, frozen=True):
    """One detection. `bbox`: left, top, width, height in pixels of the file."""

    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class OfficialNumbers(msgspec.Struct, frozen=True):
    """What COCO's library prints, in its order: average precision (ap) and recall (ar) by IoU, area and detections."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True)
class CocoKeys:
    """How a COCO file calls classes, by class index, and pictures, by file name; others by the stem of their name."""

    category_ids: Sequence[int]
    image_ids: dict[str, int | str] = field(default_factory=dict)

    def image_id(self, path: Path) -> int | str:
        if path.name in self.image_ids:
            return self.image_ids[path.name]
        return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else path.stem


def keys_of_names(names: Sequence[str]) -> CocoKeys:
    """COCO's own numbers for its 80 classes; any others are numbered from 0."""
    content = yaml.safe_load((resource_folder("configs") / "data" / "coco.yaml").read_text(encoding="utf-8"))
    is_coco = list(names) == list(content["names"].values())
    return CocoKeys(COCO_IDS if is_coco else range(len(names)))


@dataclass(frozen=True)
class Annotations:
    """What a COCO file says of a dataset besides its labels.

    crowds: by picture's id, (k, 5) class, xyxy in the file's pixels of regions of objects that nobody told apart.
    """

    path: Path
    keys: CocoKeys
    crowds: dict[int | str, torch.Tensor]


def read_annotations(path: Path, names: Sequence[str]) -> Annotations:
    """The numbers that `path` gives to the classes `names` and to pictures, and its crowds.

    Raises:
        DataError: the file is not of COCO's form, or does not know a class.
    """
    try:
        content = json.loads(path.read_bytes())
        images = {Path(image["file_name"]).name: image["id"] for image in content["images"]}
        categories = {category["name"]: category["id"] for category in content["categories"]}
        crowds = [
            (one["image_id"], one["category_id"], *map(float, one["bbox"]))
            for one in content["annotations"]
            if one.get("iscrowd")
        ]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint="--annotations takes COCO's JSON") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is not of COCO's form ({type(error).__name__}: {error})",
            hint="images, annotations and categories are needed, as in instances_val2017.json",
        ) from error
    for name in names:
        if name not in categories:
            raise DataError(
                f"{path}: has no category {name!r}; it has {', '.join(map(repr, list(categories)[:10]))}",
                hint="name the classes in the dataset YAML as the annotations do",
            )
    keys = CocoKeys([categories[name] for name in names], images)
    return Annotations(path, keys, _crowds_by_image(crowds, keys.category_ids))


def _crowds_by_image(crowds: list[tuple[Any, ...]], category_ids: Sequence[int]) -> dict[int | str, torch.Tensor]:
    class_of = {category: index for index, category in enumerate(category_ids)}
    rows: dict[int | str, list[list[float]]] = {}
    for image, category, left, top, width, height in crowds:
        if category in class_of:
            rows.setdefault(image, []).append([class_of[category], left, top, left + width, top + height])
    return {image: torch.tensor(boxes) for image, boxes in rows.items()}


def predictions(detections: torch.Tensor, image_id: int | str, keys: CocoKeys) -> list[Prediction]:
    """Detections (n, 6) xyxy, score, class of one picture, rounded to thousandths of pixels and 5 digits of score."""
    return [
        Prediction(
            image_id,
            keys.category_ids[int(kind)],
            (round(left, 3), round(top, 3), round(right - left, 3), round(bottom - top, 3)),
            round(score, 5),
        )
        for left, top, right, bottom, score, kind in detections.tolist()
    ]


class PredictionsWriter:
    """A JSON list that grows picture by picture, so that a large set needs little memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._separator = b"["

    def add(self, rows: list[Prediction]) -> None:
        """Append the detections of one picture."""
        for row in rows:
            self._file.write(self._separator + msgspec.json.encode(row))
            self._separator = b",\n"

    def close(self) -> None:
        """End the list; the file stays open."""
        self._file.write(b"[]\n" if self._separator == b"[" else b"]\n")


def has_library() -> bool:
    """Whether the official numbers can be computed here."""
    return importlib.util.find_spec("pycocotools") is not None


def official_numbers(
    annotations: Annotations, predictions_file: Path, image_ids: Sequence[int | str]
) -> OfficialNumbers:
    """COCO's numbers of the predictions, over these pictures and the dataset's classes alone.

    Raises:
        DataError: the annotations know none of the pictures.
        HpcYoloError: the library is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise HpcYoloError("the official COCO numbers need the package pycocotools", hint=INSTALL) from error

    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth = COCO(str(annotations.path))
        known = [image for image in image_ids if image in truth.imgs]
        if not known:
            shown = ", ".join(map(repr, image_ids[:3]))
            raise DataError(
                f"{annotations.path}: has none of the {len(image_ids)} pictures ({shown} …)",
                hint="give the annotations of this very split with --annotations FILE",
            )
        rows: list[dict[str, Any]] = json.loads(predictions_file.read_bytes())
        found = _loaded(truth, [row for row in rows if row["image_id"] in truth.imgs])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.imgIds = known
        evaluation.params.catIds = list(annotations.keys.category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return OfficialNumbers(*(float(value) for value in evaluation.stats))


def _loaded(truth: Any, rows: list[dict[str, Any]]) -> Any:
    """The library's own loader cannot read a detector that found nothing."""
    if rows:
        return truth.loadRes(rows)
    nothing = type(truth)()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing
