"""Measure average precision and matching at the size of COCO's validation set.

1.5 million detections of 80 classes at ten IoU thresholds; 300 detections matched with 8 labels.

OMP_NUM_THREADS=1 python benchmarks/metrics.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from hpc_yolo.evaluation.metrics import IOU_THRESHOLDS, compute_metrics, match_detections

DETECTIONS, LABELS, CLASSES = 1_500_000, 36_000, 80
MATCHED_DETECTIONS, MATCHED_LABELS = 300, 8


def main() -> None:
    """Print the shortest time of each operation."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    scores = random.random(DETECTIONS, dtype=np.float32)
    correct = random.random((DETECTIONS, 1)) < 0.03 * scores[:, None] * np.linspace(1, 0.3, len(IOU_THRESHOLDS))
    classes, labels = random.integers(CLASSES, size=DETECTIONS), random.integers(CLASSES, size=LABELS)
    seconds = least_s(lambda: compute_metrics(correct, scores, classes, labels), rounds=5)
    print(f"average precision: {seconds:.2f} s")

    corners = torch.rand(MATCHED_DETECTIONS + MATCHED_LABELS, 2) * 500
    boxes = torch.cat((corners, corners + torch.rand(len(corners), 2) * 200), dim=1)
    kinds = torch.randint(3, (len(boxes), 1)).float()
    descending = torch.rand(MATCHED_DETECTIONS, 1).sort(dim=0, descending=True).values
    found = torch.cat((boxes[:MATCHED_DETECTIONS], descending, kinds[:MATCHED_DETECTIONS]), dim=1)
    truth = torch.cat((kinds, boxes), dim=1)[MATCHED_DETECTIONS:]
    seconds = least_s(lambda: match_detections(found, truth), rounds=300)
    print(f"matching: {seconds * 1000:.2f} ms an image")


def least_s(work: Callable[[], object], rounds: int) -> float:
    """Return the seconds of the fastest of `rounds`."""
    seconds = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


if __name__ == "__main__":
    main()
