"""Matching and average precision: published values and special cases."""

import numpy as np
import pytest
import torch
from golden import GOLDEN

from hpc_yolo.evaluation.metrics import (
    IOU_THRESHOLDS,
    area,
    compute_metrics,
    match_detections,
    precision_envelope,
)
from hpc_yolo.runs.metrics import METRIC_TITLES, Metrics

AP = GOLDEN["ap_golden"]


@pytest.mark.parametrize("case", GOLDEN["match_golden"]["cases"], ids=lambda case: case["case"])
def test_matches_equal_published_ones(case):
    detections = torch.tensor(case["detections_x1y1x2y2_conf_cls"])
    labels = torch.tensor(case["labels_cls_x1y1x2y2"], dtype=torch.float32)
    assert match_detections(detections, labels).astype(int).tolist() == case["correct_detections_by_threshold"]


def test_thresholds_equal_those_of_coco():
    assert IOU_THRESHOLDS.tolist() == pytest.approx(GOLDEN["match_golden"]["thresholds"])


@pytest.mark.parametrize(("num_detections", "num_labels"), [(0, 2), (2, 0), (0, 0)])
def test_no_detections_or_no_labels_give_no_matches(num_detections, num_labels):
    correct = match_detections(torch.zeros(num_detections, 6), torch.zeros(num_labels, 5))
    assert correct.shape == (num_detections, 10)
    assert not correct.any()


def test_boxes_without_overlap_do_not_match():
    """Same class, IoU 0: matching by order alone would accept them."""
    detections = torch.tensor([[0.0, 0, 10, 10, 0.9, 0], [20.0, 20, 30, 30, 0.8, 0]])
    assert not match_detections(detections, torch.tensor([[0.0, 50, 50, 60, 60]])).any()


def golden_set():
    """Return (correct, scores, classes, label classes) by the formula of the golden values."""
    i, j = np.arange(120), np.arange(10)
    correct = np.sin(2.3 * i)[:, None] > -0.2 + 0.12 * j
    return correct, 0.5 + 0.5 * np.sin(1.1 * i + 0.2), 7 * i % 4, 5 * np.arange(90) % 4


def test_metrics_equal_published_values():
    metrics = compute_metrics(*golden_set())
    assert metrics.mean.map50 == pytest.approx(AP["map50"], abs=1e-7)
    assert metrics.mean.map50_95 == pytest.approx(AP["map"], abs=1e-7)
    assert metrics.mean.precision == pytest.approx(np.mean(AP["p"]), abs=1e-7)
    assert metrics.mean.recall == pytest.approx(np.mean(AP["r"]), abs=1e-7)
    for name, key in (("precision", "p"), ("recall", "r"), ("map50", "ap50"), ("map50_95", "ap_mean")):
        assert [getattr(row.metrics, name) for row in metrics.per_class] == pytest.approx(AP[key], abs=1e-7)
    assert [row.class_index for row in metrics.per_class] == AP["classes"]
    assert sum(row.num_labels for row in metrics.per_class) == 90


def test_metrics_are_independent_of_detection_order():
    correct, scores, classes, labels = golden_set()
    shuffled = np.random.default_rng(0).permutation(len(scores))
    assert compute_metrics(correct[shuffled], scores[shuffled], classes[shuffled], labels[::-1]) == compute_metrics(
        correct, scores, classes, labels
    )


def test_average_precision_equals_published_value():
    example = AP["compute_ap_example"]
    found = area(precision_envelope(np.array(example["recall"]), np.array(example["precision"])))
    assert found == pytest.approx(example["ap"], abs=1e-7)


@pytest.mark.parametrize("fraction_correct", [0.0, 0.02, 0.5, 1.0])
def test_area_from_curve_corners_equals_area_from_all_points(fraction_correct):
    """The fast path skips points inside the envelope; the golden sets are too small to detect an error in it."""
    random = np.random.default_rng(7)
    correct = random.random((400, 10)) < fraction_correct
    correct[0] = True
    scores = random.permutation(400) / 400
    metrics = compute_metrics(correct, scores, np.zeros(400, np.int64), np.zeros(500, np.int64))
    correct = correct[np.argsort(-scores)]
    cumulated = correct.cumsum(axis=0)
    every_point = [area(precision_envelope(column / 500, column / np.arange(1, 401))) for column in cumulated.T]
    assert metrics.mean.map50 == pytest.approx(every_point[0], abs=1e-12)
    assert metrics.mean.map50_95 == pytest.approx(np.mean(every_point), abs=1e-12)


def test_perfect_detections_have_metrics_of_1():
    metrics = compute_metrics(np.ones((6, 10), bool), np.linspace(0.9, 0.4, 6), np.arange(6) % 2, np.arange(6) % 2)
    assert (metrics.mean.map50, metrics.mean.map50_95) == pytest.approx((1, 1), abs=0.01)
    assert (metrics.mean.precision, metrics.mean.recall) == pytest.approx((1, 1), abs=0.01)


def test_class_with_labels_and_no_detection_lowers_mean():
    """Otherwise a detector improves by not predicting its hardest class."""
    correct, scores, classes, labels = golden_set()
    metrics = compute_metrics(correct, scores, classes, np.concatenate((labels, [4] * 5)))
    assert metrics.mean.map50 == pytest.approx(AP["map50"] * 4 / 5, abs=1e-7)
    assert metrics.per_class[4].metrics.map50 == 0


def test_class_without_labels_is_ignored():
    correct, scores, classes, labels = golden_set()
    more = compute_metrics(
        np.concatenate((correct, np.zeros((3, 10), bool))),
        np.concatenate((scores, [0.9] * 3)),
        np.concatenate((classes, [9] * 3)),
        labels,
    )
    assert more == compute_metrics(correct, scores, classes, labels)


@pytest.mark.parametrize(("num_detections", "labels"), [(0, []), (0, [1, 1]), (3, []), (3, [1, 1])])
def test_no_correct_detection_gives_metrics_of_0(num_detections, labels):
    """Occurs in the first epochs of every training, and with a dataset of empty images."""
    metrics = compute_metrics(
        np.zeros((num_detections, 10), bool),
        np.full(num_detections, 0.5),
        np.ones(num_detections, np.int64),
        np.array(labels, dtype=np.int64),
    )
    assert (metrics.mean.precision, metrics.mean.recall, metrics.mean.map50, metrics.mean.map50_95) == (0, 0, 0, 0)
    assert [row.num_labels for row in metrics.per_class] == ([2] if labels else [])


def test_fitness_equals_published_value():
    example = GOLDEN["fitness_example"]
    metrics = Metrics(**dict(zip(METRIC_TITLES, example["P,R,mAP50,mAP"], strict=True)))
    assert metrics.fitness == pytest.approx(example["fitness"])


def test_curves_agree_with_metrics():
    """The area and the best point of a drawn curve must equal the reported values."""
    rng = np.random.default_rng(5)
    scores, classes = rng.random(300), rng.integers(0, 3, 300)
    correct = np.repeat(rng.random((300, 1)) < scores[:, None], len(IOU_THRESHOLDS), axis=1)
    metrics = compute_metrics(correct, scores, classes, np.repeat([0, 1, 2], 120))
    assert metrics.curves is not None
    areas = [area(row) for row in metrics.curves.precision_at_recall]
    assert areas == pytest.approx([row.metrics.map50 for row in metrics.per_class])
    assert np.mean(areas) == pytest.approx(metrics.mean.map50)
    precision, recall = metrics.curves.precision, metrics.curves.recall
    for row, found in enumerate(metrics.per_class):
        at = np.flatnonzero((precision[row] == found.metrics.precision) & (recall[row] == found.metrics.recall))
        assert len(at) > 0
    assert (np.diff(recall, axis=1) <= 1e-12).all(), "recall falls with the confidence threshold"
