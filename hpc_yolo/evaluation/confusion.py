"""The confusion matrix of classes, at one confidence and one overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hpc_yolo.models.boxes import iou_matrix_xyxy

CONF_THRESHOLD = 0.25
IOU_THRESHOLD = 0.45


class ConfusionMatrix:
    """`counts` (classes + 1, classes + 1): detected classes as rows, labelled ones as columns; the last is background.

    A detection is paired with the label that it overlaps most, of any class, and a label with the detection that
    overlaps it most among those. Labels without a pair are missed, detections without a pair are false alarms.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)

    def add(self, detections: torch.Tensor, labels: torch.Tensor) -> None:
        """Count one image.

        Args:
            detections: (n, 6) xyxy, score, class. labels: (m, 5) class, xyxy in the same pixels.
        """
        background = len(self.counts) - 1
        detections = detections[detections[:, 4] > CONF_THRESHOLD]
        found, there = detections[:, 5].long().tolist(), labels[:, 0].long().tolist()
        pairs = best_pairs(iou_matrix_xyxy(detections[:, :4], labels[:, 1:]))
        for detection, label in pairs.items():
            self.counts[found[detection], there[label]] += 1
        for detection in set(range(len(found))) - pairs.keys():
            self.counts[found[detection], background] += 1
        for label in set(range(len(there))) - set(pairs.values()):
            self.counts[background, there[label]] += 1


def best_pairs(overlaps: torch.Tensor) -> dict[int, int]:
    """Return the label of each paired detection, from the IoU of all detections with all labels (n, m)."""
    if overlaps.numel() == 0:
        return {}
    best, chosen = overlaps.max(dim=1)
    detection_of: dict[int, int] = {}
    for detection in best.argsort(descending=True, stable=True).tolist():
        if best[detection] > IOU_THRESHOLD:
            detection_of.setdefault(int(chosen[detection]), detection)
    return {detection: label for label, detection in detection_of.items()}
