"""Benchmark `val`: non-maximum suppression, matching and average precision, as an evaluation runs them.

How fast validation images are loaded is in `data`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_yolo.bench.records import BenchResult
from hpc_yolo.bench.rounds import Rounds, Work, measure
from hpc_yolo.bench.threads import one_thread
from hpc_yolo.evaluation.metrics import IOU_THRESHOLDS, compute_metrics, match_detections
from hpc_yolo.evaluation.nms import non_max_suppression

ROWS, CLASSES, SIDE_PIXELS = 25_200, 80, 640
LABELS = 36_000  # of COCO's validation set
MATCHED_DETECTIONS, MATCHED_LABELS, MATCHES = 300, 8, 100
SORTED = 4_000_000
VAL: dict[str, Any] = {"conf_threshold": 0.001, "iou_threshold": 0.6, "max_detections": 300, "multi_label": True}
DETECT: dict[str, Any] = {"conf_threshold": 0.25, "iou_threshold": 0.45, "max_detections": 1000, "multi_label": False}


def bench_val(rounds: Rounds) -> list[BenchResult]:
    """Return times of NMS of images of 640 px, of AP at the size of COCO, and of matching, over a sort by torch."""
    num_images, num_detections = rounds.amount(8, 2), rounds.amount(1_500_000, 300_000)
    trained, uniform = (predictions(kind, num_images) for kind in ("trained", "uniform"))
    detections, labels = _detections(num_detections)
    found, truth = _image_to_match()
    values = torch.rand(SORTED, generator=torch.Generator().manual_seed(0))
    works = [
        Work("NMS, scores of a trained model", lambda: non_max_suppression(trained, **VAL), num_images, "image"),
        Work("NMS, uniform scores", lambda: non_max_suppression(uniform, **DETECT), num_images, "image"),
        Work("average precision", lambda: compute_metrics(*detections, labels), num_detections, "detection"),
        Work("matching", lambda: [match_detections(found, truth) for _ in range(MATCHES)], MATCHES, "image"),
    ]
    with one_thread():
        return [measure("val", works, Work(f"sort of {SORTED:,} values by torch", values.sort), rounds)]


def predictions(kind: str, num_images: int) -> torch.Tensor:
    """Return decoded predictions (n, 25200, 85): centres uniform in 640², sides uniform in 2 to 202 pixels.

    Args:
        kind: of scores: as of a trained model, uniform, or fresh as of an untrained head.
        num_images: n.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(num_images, ROWS, *shape, generator=generator)

    def logits(mean: float, deviation: float, number: int) -> torch.Tensor:
        return torch.randn(num_images, ROWS, number, generator=generator).mul(deviation).add(mean).sigmoid()

    boxes = torch.cat((uniform(2) * SIDE_PIXELS, uniform(2) * 200 + 2), dim=2)
    if kind == "uniform":
        scores = uniform(1), uniform(CLASSES)
    elif kind == "trained":
        scores = logits(-11, 3, 1), logits(-6, 2, CLASSES)
    else:
        scores = logits(-5.3, 0.3, 1), logits(-4.88, 0.3, CLASSES)
    return torch.cat((boxes, *scores), dim=2)


def _detections(number: int) -> tuple[tuple[Any, Any, Any], Any]:
    """Return (correct at each IoU, scores, classes) of detections, and the classes of all labels."""
    random = np.random.default_rng(0)
    scores = random.random(number, dtype=np.float32)
    correct = random.random((number, 1)) < 0.03 * scores[:, None] * np.linspace(1, 0.3, len(IOU_THRESHOLDS))
    return (correct, scores, random.integers(CLASSES, size=number)), random.integers(CLASSES, size=LABELS)


def _image_to_match() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the detections and labels of one image."""
    generator = torch.Generator().manual_seed(0)
    number = MATCHED_DETECTIONS + MATCHED_LABELS
    corners = torch.rand(number, 2, generator=generator) * 500
    boxes = torch.cat((corners, corners + torch.rand(number, 2, generator=generator) * 200), dim=1)
    kinds = torch.randint(3, (number, 1), generator=generator).float()
    descending = torch.rand(MATCHED_DETECTIONS, 1, generator=generator).sort(dim=0, descending=True).values
    found = torch.cat((boxes[:MATCHED_DETECTIONS], descending, kinds[:MATCHED_DETECTIONS]), dim=1)
    return found, torch.cat((kinds, boxes), dim=1)[MATCHED_DETECTIONS:]
