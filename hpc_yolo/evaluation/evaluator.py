"""A pass over the validation images: every rank evaluates its shard, and matches are gathered, not images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hpc_yolo.data.batch import ImageShape, ValidationBatch
from hpc_yolo.evaluation.metrics import (
    IOU_THRESHOLDS,
    DetectionMetrics,
    compute_metrics,
    in_crowd,
    match_detections,
)
from hpc_yolo.evaluation.nms import non_max_suppression
from hpc_yolo.models.boxes import cxcywh_to_xyxy

Arrays = dict[str, npt.NDArray[Any]]

NO_CROWDS = torch.zeros(0, 5)


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics over the images of all ranks."""

    metrics: DetectionMetrics
    num_images: int


@dataclass(frozen=True)
class EvaluationSettings:
    """Parameters of the suppression; thresholds in [0, 1]. `single_cls` treats all classes as the first."""

    conf_threshold: float = 0.001
    iou_threshold: float = 0.6
    max_detections: int = 300
    single_cls: bool = False


@dataclass(frozen=True)
class ImageResult:
    """Detections and labels of one image, in the pixels of its file.

    Attributes:
        index: of the image in its `ImageIndex`.
        detections: (n, 6) xyxy, score, class; highest score first.
        labels: (m, 5) class, xyxy.
    """

    index: int
    shape_hw: tuple[int, int]
    detections: torch.Tensor
    labels: torch.Tensor


class Stopwatch:
    """Seconds spent in each stage of an evaluation; on a GPU a stage ends with a synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = {"preprocess": 0.0, "inference": 0.0, "nms": 0.0}

    @contextlib.contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to `stage`."""
        started_s = self._now_s()
        yield
        self.seconds[stage] += self._now_s() - started_s

    def _now_s(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[ValidationBatch],
    *,
    device: torch.device,
    gather_arrays: Callable[[Arrays], list[Arrays]],
    settings: EvaluationSettings | None = None,
    crowds: Mapping[int, torch.Tensor] | None = None,
    on_image: Callable[[ImageResult], None] = lambda _result: None,
    stopwatch: Stopwatch | None = None,
) -> EvaluationResult:
    """Return the metrics of `model` (in evaluation mode) on the `batches` of all ranks; the same on every rank.

    Args:
        gather_arrays: returns every rank's arrays, by rank.
        crowds: by index of an image, (k, 5) class, xyxy in the file's pixels: regions in which detections are ignored.
        on_image: called with the result of each image of this rank.
        stopwatch: times the stages.
    """
    settings = settings or EvaluationSettings()
    found = []
    for batch in batches:
        for result in _detect(model, batch, device, settings, stopwatch):
            found.append(_arrays(result, (crowds or {}).get(result.index, NO_CROWDS)))
            on_image(result)
    return _metrics_of(gather_arrays(_joined(found)))


def _detect(
    model: nn.Module,
    batch: ValidationBatch,
    device: torch.device,
    settings: EvaluationSettings,
    stopwatch: Stopwatch | None,
) -> Iterator[ImageResult]:
    dtype = next(model.parameters()).dtype
    timing = stopwatch.timing if stopwatch else contextlib.nullcontext
    with timing("preprocess"):
        images = batch.images.to(device, non_blocking=True).to(dtype, memory_format=torch.channels_last) / 255
    with timing("inference"):
        decoded, _ = model(images)
    with timing("nms"):
        found = non_max_suppression(
            decoded,
            conf_threshold=settings.conf_threshold,
            iou_threshold=settings.iou_threshold,
            max_detections=settings.max_detections,
            agnostic=settings.single_cls,
        )
    height, width = images.shape[2:]
    size = torch.tensor([width, height, width, height])
    for position, shape in enumerate(batch.shapes):
        detections = found[position].cpu()
        own = batch.targets[batch.targets[:, 0] == position]
        labels = torch.cat((own[:, 1:2], cxcywh_to_xyxy(own[:, 2:] * size)), dim=1)
        detections[:, :4] = to_original_pixels(detections[:, :4], shape)
        labels[:, 1:] = to_original_pixels(labels[:, 1:], shape)
        if settings.single_cls:
            detections[:, 5] = 0
        yield ImageResult(int(batch.indices[position]), shape[0], detections, labels)


def _arrays(result: ImageResult, crowds: torch.Tensor) -> Arrays:
    correct = match_detections(result.detections, result.labels)
    return {
        "correct": correct,
        "ignored": in_crowd(result.detections, crowds) & ~correct,
        "scores": result.detections[:, 4].numpy(),
        "classes": result.detections[:, 5].numpy().astype(np.int64),
        "detection_images": np.full(len(result.detections), result.index),
        "label_classes": result.labels[:, 0].numpy().astype(np.int64),
        "images": np.array([result.index]),
    }


def to_original_pixels(boxes_xyxy: torch.Tensor, shape: ImageShape) -> torch.Tensor:
    """Convert boxes (n, 4) of the padded image to pixels of the file, clipped to it."""
    (height, width), ((ratio_h, ratio_w), (pad_w, pad_h)) = shape
    moved = boxes_xyxy - boxes_xyxy.new_tensor([pad_w, pad_h, pad_w, pad_h])
    moved = moved / moved.new_tensor([ratio_w, ratio_h, ratio_w, ratio_h])
    return torch.minimum(moved.clamp(min=0), moved.new_tensor([width, height, width, height]))


def _joined(found: list[Arrays]) -> Arrays:
    """Concatenate the arrays of many images; without an image, return empty arrays of the same types."""
    nothing: Arrays = {
        "correct": np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool),
        "ignored": np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool),
        "scores": np.zeros(0, dtype=np.float32),
        "classes": np.zeros(0, dtype=np.int64),
        "detection_images": np.zeros(0, dtype=np.int64),
        "label_classes": np.zeros(0, dtype=np.int64),
        "images": np.zeros(0, dtype=np.int64),
    }
    return {name: np.concatenate([empty, *(one[name] for one in found)]) for name, empty in nothing.items()}


def _metrics_of(shards: list[Arrays]) -> EvaluationResult:
    every = _joined(shards)
    # By image, so that equal scores are in the same order for any number of ranks.
    order = np.argsort(every["detection_images"], kind="stable")
    metrics = compute_metrics(
        every["correct"][order],
        every["scores"][order],
        every["classes"][order],
        every["label_classes"],
        every["ignored"][order],
    )
    return EvaluationResult(metrics, len(every["images"]))
