"""Non-maximum suppression: published counts, agreement with its definition, and limits."""

from fractions import Fraction

import golden
import pytest
import torch

from hpc_yolo.evaluation.nms import MAX_CANDIDATES, non_max_suppression

GOLDEN = golden.GOLDEN["nms_golden"]
ARGUMENTS = {"conf_thres": "conf_threshold", "iou_thres": "iou_threshold", "max_det": "max_detections"}


def waves(num_rows, num_classes):
    """Return the decoded rows of one image by the formula of the golden values."""
    i = torch.arange(num_rows, dtype=torch.float64)[:, None]
    boxes = (
        100 + 80 * torch.sin(0.9 * i),
        100 + 80 * torch.sin(1.3 * i + 1),
        40 + 20 * torch.sin(0.5 * i + 2),
        40 + 20 * torch.sin(0.7 * i + 3),
    )
    objectness = 0.5 + 0.5 * torch.sin(2.1 * i + 0.3)
    classes = 0.5 + 0.5 * torch.sin(1.7 * i + 0.9 * torch.arange(num_classes))
    return torch.cat((*boxes, objectness, classes), dim=1)[None].float()


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["args"]))
def test_detections_equal_published_ones(case):
    arguments = {"multi_label": False, **{ARGUMENTS.get(key, key): value for key, value in case["args"].items()}}
    (found,) = non_max_suppression(waves(case["n"], case["nc"]), **arguments)
    assert len(found) == case["count"]
    torch.testing.assert_close(found[:5], torch.tensor(case["first5"]), rtol=1e-5, atol=1e-4)
    assert found[:, 4].sum().item() == pytest.approx(case["conf_sum"], rel=1e-5)


def greedy(rows, conf_threshold, iou_threshold, max_detections, multi_label, agnostic, classes):
    """Suppress by the definition, one candidate after the other, in exact arithmetic on the same float32 scores."""
    candidates = []
    for row in rows:
        scores = (row[5:] * row[4]).tolist()
        for kind in range(len(scores)) if multi_label else [scores.index(max(scores))]:
            if row[4] > conf_threshold and scores[kind] > conf_threshold and (classes is None or kind in classes):
                x, y, w, h = map(Fraction, row[:4].tolist())
                candidates.append((scores[kind], kind, (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept = []
    for score, kind, box in candidates:
        if all(overlap(box, other) <= iou_threshold for _, k, other in kept if agnostic or k == kind):
            kept.append((score, kind, box))
    return [[*map(float, box), score, kind] for score, kind, box in kept[:max_detections]]


def overlap(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return intersection / (sum(areas) - intersection)


@pytest.mark.parametrize("max_detections", [1, 7, 300])
@pytest.mark.parametrize(
    "options",
    [
        {"multi_label": True, "agnostic": False, "classes": None},
        {"multi_label": True, "agnostic": True, "classes": None},
        {"multi_label": False, "agnostic": False, "classes": None},
        {"multi_label": True, "agnostic": False, "classes": [0, 3]},
        {"multi_label": False, "agnostic": True, "classes": [2]},
    ],
    ids=["labels", "agnostic labels", "best class", "some classes", "one class"],
)
def test_detections_equal_greedy_suppression(options, max_detections):
    """Whole coordinates and few scores, so that scores and overlaps often tie or equal the threshold."""
    for seed in range(2):
        random = torch.Generator().manual_seed(seed)
        rows = torch.zeros(90, 5 + 4)
        rows[:, :2] = torch.randint(5, 60, (90, 2), generator=random)
        rows[:, 2:4] = torch.randint(1, 12, (90, 2), generator=random) * 4
        rows[:, 4:] = torch.randint(0, 9, (90, 5), generator=random) / 8
        arguments = {"conf_threshold": 0.125, "iou_threshold": 0.5, "max_detections": max_detections, **options}
        (found,) = non_max_suppression(rows[None], **arguments)
        assert found.tolist() == greedy(rows, **arguments)


def test_equal_scores_are_cut_in_row_order():
    """Otherwise results differ between machines for an image with more equal scores than candidates."""
    num = MAX_CANDIDATES + 100
    rows = torch.zeros(1, num, 6)
    rows[0, :, 0] = torch.arange(num) * 3.0
    rows[0, :, 2:4] = 1.0
    rows[0, :, 4:] = 1.0
    (found,) = non_max_suppression(rows, max_detections=num)
    assert found[:, 0].tolist() == (rows[0, :MAX_CANDIDATES, 0] - 0.5).tolist()


def test_all_images_of_batch_have_detections():
    """The original has a time limit after which later images get no detections, which lowers mAP."""
    images = waves(200, 3).expand(6, -1, -1)
    assert [len(found) for found in non_max_suppression(images)] == [300] * 6


def test_image_without_objectness_has_no_detections():
    images = torch.cat((waves(50, 2), waves(50, 2)))
    images[0, :, 4] = 0
    first, second = non_max_suppression(images)
    assert first.shape == (0, 6)
    assert len(second) > 0


def test_images_without_rows_have_no_detections():
    assert [tuple(found.shape) for found in non_max_suppression(torch.zeros(2, 0, 7))] == [(0, 6)] * 2


def test_candidates_are_limited_to_highest_scores():
    """Suppression takes quadratic time: the many boxes of an untrained model must not stall training."""
    num = MAX_CANDIDATES + 500
    rows = torch.zeros(1, num, 6)
    rows[0, :, 0] = torch.arange(num) * 3.0
    rows[0, :, 2:4] = 1.0
    rows[0, :, 4] = torch.linspace(0.2, 0.9, num)
    rows[0, :, 5] = 1.0
    (found,) = non_max_suppression(rows, max_detections=num)
    assert len(found) == MAX_CANDIDATES
    assert found[0, 4].item() == pytest.approx(0.9)
    assert found[-1, 4].item() == pytest.approx(rows[0, 500, 4].item())


def test_agnostic_suppresses_across_classes():
    rows = torch.tensor([[[50, 50, 20, 20, 0.9, 1.0, 0.0], [50, 50, 20, 20, 0.8, 0.0, 1.0]]])
    (per_class,) = non_max_suppression(rows)
    (together,) = non_max_suppression(rows, agnostic=True)
    assert per_class[:, 5].tolist() == [0, 1]
    assert together[:, 5].tolist() == [0]
    assert per_class[0, :4].tolist() == [40, 40, 60, 60]
