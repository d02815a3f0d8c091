"""Detections in COCO's JSON format, and the official metrics of COCO's own library."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import torch

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.data.coco_json import COCO_IDS, coco_class_names
from hpc_yolo.data.coco_json import ImageId as ImageId

INSTALL = "pip install 'hpc-yolo[coco]'"


class Prediction(msgspec.Struct, frozen=True):
    """One detection. `bbox`: left, top, width, height in pixels of the file."""

    image_id: ImageId
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class OfficialNumbers(msgspec.Struct, frozen=True):
    """The metrics that COCO's library prints, in its order: AP and AR by IoU, area and number of detections."""

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
    """The ids of a COCO file: of classes, by class index, and of images, by their position in the split."""

    category_ids: Sequence[int]
    image_ids: Sequence[ImageId]


def keys_of_names(names: Sequence[str], image_paths: Sequence[str]) -> CocoKeys:
    """Return COCO's ids for its 80 classes, and ids from 0 for others; image ids come from file names."""
    is_coco = tuple(names) == coco_class_names()
    image_ids = fallback_ids(image_paths, [None] * len(image_paths), taken=set())
    return CocoKeys(COCO_IDS if is_coco else range(len(names)), image_ids)


def fallback_ids(
    image_paths: Sequence[str], known: Sequence[ImageId | None], *, taken: Collection[ImageId]
) -> list[ImageId]:
    """Return `known` ids with others for None: the name without suffix, as a number if it is one, as in COCO.

    Where that is `taken` or that of several images, the path is the id.
    """
    own = [_own_id(Path(path)) for path in image_paths]
    counts = Counter(own)
    return [
        found if found is not None else short if counts[short] == 1 and short not in taken else path
        for found, short, path in zip(known, own, image_paths, strict=True)
    ]


def named_alike(image_paths: Sequence[str]) -> list[str]:
    """Return the images whose names without suffix are not unique."""
    own = [_own_id(Path(path)) for path in image_paths]
    counts = Counter(own)
    return [path for path, short in zip(image_paths, own, strict=True) if counts[short] > 1]


def _own_id(path: Path) -> ImageId:
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else path.stem


def predictions(detections: torch.Tensor, image_id: ImageId, keys: CocoKeys) -> list[Prediction]:
    """Return detections (n, 6) xyxy, score, class of one image, rounded to 0.001 pixels and 5 digits of the score."""
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
    """Writer of a JSON list, image by image, so that a large set needs little memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._separator = b"["

    def add(self, rows: list[Prediction]) -> None:
        """Append the detections of one image."""
        for row in rows:
            self._file.write(self._separator + msgspec.json.encode(row))
            self._separator = b",\n"

    def close(self) -> None:
        """End the list; the file stays open."""
        self._file.write(b"[]\n" if self._separator == b"[" else b"]\n")


def has_library() -> bool:
    """Return True if pycocotools is installed."""
    return importlib.util.find_spec("pycocotools") is not None


def official_numbers(
    dataset: dict[str, Any], predictions_file: Path, image_ids: Sequence[ImageId], category_ids: Sequence[int]
) -> OfficialNumbers:
    """Return COCO's metrics of the predictions, over these images and classes only.

    Args:
        dataset: COCO's annotations, with every field that its library reads.

    Raises:
        HpcYoloError: the library is not installed, or fails.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise HpcYoloError("the official COCO metrics need the package pycocotools", hint=INSTALL) from error

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            truth = _indexed(COCO, dataset)
            rows: list[dict[str, Any]] = json.loads(predictions_file.read_bytes())
            wanted = set(image_ids)
            evaluation = COCOeval(truth, _loaded(truth, [row for row in rows if row["image_id"] in wanted]), "bbox")
            evaluation.params.imgIds = list(image_ids)
            evaluation.params.catIds = list(category_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    except Exception as error:  # it raises arbitrary errors for unusual annotations
        raise HpcYoloError(f"pycocotools cannot evaluate the predictions: {type(error).__name__}: {error}") from error
    return OfficialNumbers(*(float(value) for value in evaluation.stats))


def _indexed(kind: type[Any], dataset: dict[str, Any]) -> Any:
    indexed = kind()
    indexed.dataset = dataset
    indexed.createIndex()
    return indexed


def _loaded(truth: Any, rows: list[dict[str, Any]]) -> Any:
    """Return the library's object of the predictions; its own loader fails without detections."""
    return truth.loadRes(rows) if rows else _indexed(type(truth), {**truth.dataset, "annotations": []})
