"""The confusion matrix: published counts, misses and false alarms."""

import golden
import pytest
import torch

from hpc_yolo.evaluation.confusion import ConfusionMatrix

GOLDEN = golden.GOLDEN["match_golden"]
BOX = [10.0, 10.0, 50.0, 50.0]
FAR = [200.0, 200.0, 240.0, 240.0]


def counts_of(detections, labels, num_classes=2):
    matrix = ConfusionMatrix(num_classes)
    matrix.add(torch.tensor(detections).reshape(-1, 6), torch.tensor(labels).reshape(-1, 5))
    return matrix.counts.tolist()


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["case"])
def test_confusion_matrix_equals_published_counts(case):
    detections, labels = case["detections_x1y1x2y2_conf_cls"], case["labels_cls_x1y1x2y2"]
    assert counts_of(detections, [[float(value) for value in row] for row in labels], 3) == case["confusion_matrix_nc3"]


@pytest.mark.parametrize(
    ("detections", "labels", "counts"),
    [
        ([], [], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ([], [[1.0, *BOX]], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
        ([[*BOX, 0.9, 1.0]], [], [[0, 0, 0], [0, 0, 1], [0, 0, 0]]),
        ([[*BOX, 0.9, 1.0]], [[0.0, *FAR]], [[0, 0, 0], [0, 0, 1], [1, 0, 0]]),
        ([[*BOX, 0.25, 1.0]], [[1.0, *BOX]], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
        ([[*BOX, 0.9, 0.0], [*BOX, 0.9, 1.0]], [[1.0, *BOX]], [[0, 1, 0], [0, 0, 1], [0, 0, 0]]),
    ],
    ids=[
        "nothing",
        "miss",
        "false alarm on empty image",
        "false alarm and miss",
        "score below threshold",
        "equal overlaps: higher score",
    ],
)
def test_misses_and_false_alarms_are_counted(detections, labels, counts):
    """False alarms count on every image, also on images without labels."""
    assert counts_of(detections, labels) == counts


def test_counts_of_images_are_summed():
    matrix = ConfusionMatrix(1)
    for _ in range(3):
        matrix.add(torch.tensor([[*BOX, 0.9, 0.0]]), torch.tensor([[0.0, *BOX]]))
    assert matrix.counts.tolist() == [[3, 0], [0, 0]]
