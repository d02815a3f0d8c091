"""Measure non-maximum suppression of eight images of 25,200 predictions and 80 classes.

Scores as of a trained model, uniform scores, and those of an untrained head; with the settings of
validation and of detection.

OMP_NUM_THREADS=2 python benchmarks/nms.py
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import torch

from hpc_yolo.evaluation.nms import non_max_suppression

IMAGES, ROWS, CLASSES, SIDE_PIXELS = 8, 25_200, 80, 640
WARMUP, ROUNDS = 1, 15
SETTINGS: dict[str, dict[str, Any]] = {
    "val": {"conf_threshold": 0.001, "iou_threshold": 0.6, "max_detections": 300, "multi_label": True},
    "detect": {"conf_threshold": 0.25, "iou_threshold": 0.45, "max_detections": 1000, "multi_label": False},
}


def main() -> None:
    """Print seconds per batch (median and minimum of all rounds) and the number of detections."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    print(f"{'scores':12} {'settings':9} {'median s':>9} {'min s':>9}   detections of each image")
    for name, decoded in predictions().items():
        for use, settings in SETTINGS.items():
            seconds = []
            for _ in range(WARMUP + ROUNDS):
                started_s = time.perf_counter()
                found = non_max_suppression(decoded, **settings)
                seconds.append(time.perf_counter() - started_s)
            counts = " ".join(str(len(one)) for one in found)
            print(f"{name:12} {use:9} {statistics.median(seconds[WARMUP:]):9.4f} {min(seconds):9.4f}   {counts}")


def predictions() -> dict[str, torch.Tensor]:
    """Return decoded predictions (8, 25200, 85) by name: centres uniform in 640², sides uniform in 2 to 202 pixels."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(IMAGES, ROWS, *shape, generator=generator)

    def logits(mean: float, deviation: float, number: int) -> torch.Tensor:
        return torch.randn(IMAGES, ROWS, number, generator=generator).mul(deviation).add(mean).sigmoid()

    boxes = torch.cat((uniform(2) * SIDE_PIXELS, uniform(2) * 200 + 2), dim=2)
    scores = {
        "trained-like": (logits(-11, 3, 1), logits(-6, 2, CLASSES)),
        "uniform": (uniform(1), uniform(CLASSES)),
        "fresh": (logits(-5.3, 0.3, 1), logits(-4.88, 0.3, CLASSES)),
    }
    return {name: torch.cat((boxes, *both), dim=2) for name, both in scores.items()}


if __name__ == "__main__":
    main()
