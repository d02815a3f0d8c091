"""Precision, recall and mean average precision of detections against labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from hpc_yolo.models.boxes import iou_matrix_xyxy, overlap_fractions_xyxy
from hpc_yolo.runs.metrics import ClassMetrics, Metrics

Array = npt.NDArray[np.float64]

IOU_THRESHOLDS: Array = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = 101
CONFIDENCE_POINTS = 1000
F1_SMOOTHING = 0.1  # width of the box filter over the F1 curve, as a fraction of its length
TINY = 1e-16


@dataclass(frozen=True)
class ClassEvaluation:
    """Metrics of one class that has labels; its mAP is its AP."""

    class_index: int
    num_labels: int
    metrics: Metrics


@dataclass(frozen=True)
class Curves:
    """Curves at IoU 0.5, a row for each class that has labels, in the order of `DetectionMetrics.per_class`.

    Attributes:
        precision: (classes, 1000) over the confidences from 0 to 1.
        recall: likewise.
        precision_at_recall: (classes, 101) over the recalls from 0 to 1; the area below a row is the class's AP50.
    """

    precision: Array
    recall: Array
    precision_at_recall: Array


@dataclass(frozen=True)
class DetectionMetrics:
    """Means over the classes that have labels, and each class; `curves` is None without a correct detection."""

    mean: Metrics = field(default_factory=Metrics)
    per_class: tuple[ClassEvaluation, ...] = ()
    curves: Curves | None = field(default=None, compare=False, repr=False)

    def class_maps(self, num_classes: int) -> list[float]:
        """Return mAP50-95 of each class; classes without labels have the mean of the others."""
        maps = [self.mean.map50_95] * num_classes
        for row in self.per_class:
            maps[row.class_index] = row.metrics.map50_95
        return maps

    def named(self, names: Sequence[str]) -> list[ClassMetrics]:
        """Return the metrics of each class that has labels, under its name in `names`."""
        return [
            ClassMetrics(name=names[row.class_index], num_labels=row.num_labels, metrics=row.metrics)
            for row in self.per_class
        ]


def match_detections(detections: torch.Tensor, labels: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Return (n, 10): True where a detection is correct at an IoU threshold.

    At each threshold a detection is matched to the label of its class that it overlaps most, if it overlaps it enough;
    a label keeps the first of the detections matched to it. The others are wrong, even where another label would fit.

    Args:
        detections: (n, 6) xyxy, score, class; highest score first.
        labels: (m, 5) class, xyxy in the same pixels.
    """
    correct = np.zeros((len(detections), len(IOU_THRESHOLDS)), dtype=bool)
    if len(detections) == 0 or len(labels) == 0:
        return correct
    overlaps = iou_matrix_xyxy(detections[:, :4], labels[:, 1:])
    overlaps = overlaps.where(detections[:, 5:6] == labels[None, :, 0], 0.0)
    best, chosen = (found.cpu().numpy() for found in overlaps.max(dim=1))
    rows, thresholds = np.nonzero(best[:, None] >= IOU_THRESHOLDS)
    _, first = np.unique(chosen[rows] * len(IOU_THRESHOLDS) + thresholds, return_index=True)
    correct[rows[first], thresholds[first]] = True
    return correct


def in_crowd(detections: torch.Tensor, crowds: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Return (n, 10): True where the fraction of a detection inside a crowd of its class reaches a threshold.

    A crowd is a region of many objects without boxes of their own; COCO ignores detections in it.

    Args:
        detections: (n, 6) xyxy, score, class. crowds: (k, 5) class, xyxy in the same pixels.
    """
    if len(detections) == 0 or len(crowds) == 0:
        return np.zeros((len(detections), len(IOU_THRESHOLDS)), dtype=bool)
    inside = overlap_fractions_xyxy(detections[:, :4], crowds[:, 1:])
    inside = inside.where(detections[:, 5:6] == crowds[None, :, 0], 0.0).amax(dim=1)
    return inside.cpu().numpy()[:, None] >= IOU_THRESHOLDS


def compute_metrics(
    correct: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.floating],
    classes: npt.NDArray[np.integer],
    label_classes: npt.NDArray[np.integer],
    ignored: npt.NDArray[np.bool_] | None = None,
) -> DetectionMetrics:
    """Return the metrics of all detections of a set.

    Args:
        correct: (N, 10) at each threshold. scores, classes: (N,) of the same detections.
        label_classes: (M,) of all labels.
        ignored: (N, 10) detections that are not correct and do not count as wrong either.
    """
    counted = np.ones_like(correct) if ignored is None else ~ignored
    present, num_labels = np.unique(label_classes, return_counts=True)
    if len(present) == 0:
        return DetectionMetrics()
    if not correct.any():
        rows = [ClassEvaluation(int(c), int(n), Metrics()) for c, n in zip(present, num_labels, strict=True)]
        return DetectionMetrics(per_class=tuple(rows))
    by_class = np.argsort(classes, kind="stable")
    groups = np.split(by_class, np.searchsorted(classes[by_class], np.stack((present, present + 1), axis=1).ravel()))
    curves = [
        _class_curves(correct[rows], counted[rows], scores[rows], int(n))
        for rows, n in zip(groups[1::2], num_labels, strict=True)
    ]
    precision, recall = np.array([curve[0] for curve in curves]), np.array([curve[1] for curve in curves])
    ap = np.array([curve[2] for curve in curves])
    f1 = 2 * precision * recall / (precision + recall + TINY)
    at = _smoothed(f1.mean(axis=0)).argmax()
    per_class = tuple(
        ClassEvaluation(int(c), int(n), _metrics(p, r, row[0], row.mean()))
        for c, n, p, r, row in zip(present, num_labels, precision[:, at], recall[:, at], ap, strict=True)
    )
    return DetectionMetrics(
        mean=_metrics(precision[:, at].mean(), recall[:, at].mean(), ap[:, 0].mean(), ap.mean()),
        per_class=per_class,
        curves=Curves(precision, recall, np.array([curve[3] for curve in curves])),
    )


def _metrics(precision: np.floating, recall: np.floating, ap50: np.floating, ap50_95: np.floating) -> Metrics:
    return Metrics(precision=float(precision), recall=float(recall), map50=float(ap50), map50_95=float(ap50_95))


def precision_envelope(recall: Array, precision: Array) -> Array:
    """Return (101,) the best precision at each recall or a higher one."""
    recalls = np.concatenate(([0.0], recall, [1.0]))
    envelope = np.maximum.accumulate(np.concatenate(([1.0], precision, [0.0]))[::-1])[::-1]
    return np.interp(np.linspace(0, 1, RECALL_POINTS), recalls, envelope)


def area(heights: Array) -> float:
    """Return the area under a curve of evenly spaced points from 0 to 1, by the trapezoid rule."""
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(np.linspace(0, 1, len(heights)))).sum())


def _class_curves(
    correct: npt.NDArray[np.bool_],
    counted: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.floating],
    num_labels: int,
) -> tuple[Array, Array, Array, Array]:
    """Return (precision, recall, AP, precision over recall) of the detections of one class, in any order.

    Precision and recall over 1000 confidences at IoU 0.5, AP (10,), precision over 101 recalls at IoU 0.5.
    """
    order = np.argsort(-scores, kind="stable")
    correct, counted, scores = correct[order], counted[order], scores[order]
    envelopes = [
        precision_envelope(*_corners(np.flatnonzero(right[kept]), int(kept.sum()), num_labels))
        for right, kept in zip(correct.T, counted.T, strict=True)
    ]
    ap = np.array([area(envelope) for envelope in envelopes])
    right, scores = correct[counted[:, 0], 0].cumsum(), scores[counted[:, 0]]
    if len(scores) == 0:
        return np.zeros(CONFIDENCE_POINTS), np.zeros(CONFIDENCE_POINTS), ap, envelopes[0]
    confidences = np.linspace(0, 1, CONFIDENCE_POINTS)
    precision = np.interp(-confidences, -scores, right / np.arange(1, len(right) + 1), left=1)
    recall = np.interp(-confidences, -scores, right / (num_labels + TINY), left=0)
    return precision, recall, ap, envelopes[0]


def _corners(right: npt.NDArray[np.integer], num_detections: int, num_labels: int) -> tuple[Array, Array]:
    """Return (recall, precision) at each correct detection and at the last wrong one after it.

    Between the two recall is constant and precision falls, so that no point there changes the envelope.

    Args:
        right: positions of the correct ones among a class's detections, highest score first.
    """
    count = np.arange(len(right) + 1)
    ends = np.append(right, num_detections)
    at_right, before_next = count[1:] / (right + 1), count / np.maximum(ends, 1)
    recall = np.repeat(count / (num_labels + TINY), 2)[1:]
    precision = np.empty(len(recall))
    precision[0::2], precision[1::2] = before_next, at_right
    return recall, precision


def _smoothed(curve: Array) -> Array:
    """Apply a box filter, with the ends repeated."""
    taps = round(len(curve) * F1_SMOOTHING * 2) // 2 + 1
    padded = np.pad(curve, taps // 2, mode="edge")
    return np.convolve(padded, np.full(taps, 1 / taps), mode="valid")
