"""A pass over the validation pictures: every rank takes its share, and matches are gathered, not pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hpc_yolo.batches import PictureShape, ValidationBatch
from hpc_yolo.boxes import cxcywh_to_xyxy
from hpc_yolo.evaluation.metrics import IOU_THRESHOLDS, DetectionMetrics, compute_metrics, match_detections
from hpc_yolo.evaluation.nms import non_max_suppression

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics over the pictures of all ranks."""

    metrics: DetectionMetrics
    num_images: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[ValidationBatch],
    *,
    device: torch.device,
    gather_arrays: Callable[[Arrays], list[Arrays]],
) -> EvaluationResult:
    """Metrics of `model` (in evaluation mode) on the `batches` of all ranks; the same on every rank.

    Args:
        gather_arrays: every rank's arrays, by rank.
    """
    found = [one for batch in batches for one in _evaluate_batch(model, batch, device)]
    return _metrics_of(gather_arrays(_joined(found)))


def _evaluate_batch(model: nn.Module, batch: ValidationBatch, device: torch.device) -> list[Arrays]:
    dtype = next(model.parameters()).dtype
    images = batch.images.to(device, non_blocking=True).to(dtype, memory_format=torch.channels_last) / 255
    decoded, _ = model(images)
    height, width = images.shape[2:]
    size = torch.tensor([width, height, width, height])
    found = []
    for position, detections in enumerate(non_max_suppression(decoded)):
        detections = detections.cpu()
        own = batch.targets[batch.targets[:, 0] == position]
        labels = torch.cat((own[:, 1:2], cxcywh_to_xyxy(own[:, 2:] * size)), dim=1)
        detections[:, :4] = to_original_pixels(detections[:, :4], batch.shapes[position])
        labels[:, 1:] = to_original_pixels(labels[:, 1:], batch.shapes[position])
        image = int(batch.indices[position])
        found.append(
            {
                "correct": match_detections(detections, labels),
                "scores": detections[:, 4].numpy(),
                "classes": detections[:, 5].numpy().astype(np.int64),
                "detection_images": np.full(len(detections), image),
                "label_classes": labels[:, 0].numpy().astype(np.int64),
                "images": np.array([image]),
            }
        )
    return found


def to_original_pixels(boxes_xyxy: torch.Tensor, shape: PictureShape) -> torch.Tensor:
    """Boxes (n, 4) from the padded picture back to the file's pixels, kept inside it."""
    (height, width), ((ratio_h, ratio_w), (pad_w, pad_h)) = shape
    moved = boxes_xyxy - boxes_xyxy.new_tensor([pad_w, pad_h, pad_w, pad_h])
    moved = moved / moved.new_tensor([ratio_w, ratio_h, ratio_w, ratio_h])
    return torch.minimum(moved.clamp(min=0), moved.new_tensor([width, height, width, height]))


def _joined(found: list[Arrays]) -> Arrays:
    """Arrays of many pictures, end to end; with the right types where there is no picture at all."""
    nothing: Arrays = {
        "correct": np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool),
        "scores": np.zeros(0, dtype=np.float32),
        "classes": np.zeros(0, dtype=np.int64),
        "detection_images": np.zeros(0, dtype=np.int64),
        "label_classes": np.zeros(0, dtype=np.int64),
        "images": np.zeros(0, dtype=np.int64),
    }
    return {name: np.concatenate([empty, *(one[name] for one in found)]) for name, empty in nothing.items()}


def _metrics_of(shares: list[Arrays]) -> EvaluationResult:
    every = _joined(shares)
    # By picture, so that equal scores stand in the same order for any number of ranks.
    order = np.argsort(every["detection_images"], kind="stable")
    metrics = compute_metrics(
        every["correct"][order], every["scores"][order], every["classes"][order], every["label_classes"]
    )
    return EvaluationResult(metrics, len(every["images"]))
