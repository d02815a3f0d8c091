"""The loss of the anchor-free head: assignment and terms against loops over targets and points, as in the papers."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from hpc_yolo.models import build_model
from hpc_yolo.models.boxes import ciou_cxcywh
from hpc_yolo.models.losses.task_aligned import (
    NUM_BINS,
    POINTS_A_TARGET,
    TaskAlignedLoss,
    assign,
    distances_of,
    distribution_focal,
    grid_points,
)
from hpc_yolo.spec.recipe import Hyperparameters

STRIDES = torch.tensor([8.0, 16.0, 32.0], dtype=torch.float64)
HEIGHT, WIDTH, BATCH, NUM_CLASSES = 64, 96, 2, 3


def predictions_of(seed, spread=2.0):
    """Return raw predictions whose boxes overlap the targets more or less, with equal scores in places."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(BATCH, 1, int(HEIGHT / s), int(WIDTH / s), 4 * NUM_BINS + NUM_CLASSES) for s in STRIDES.tolist()]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * spread for shape in shapes]


def targets_of(num, seed):
    """Return targets of all sizes, some of them equal, outside the image, narrower than a cell, or padding."""
    draw = torch.rand(num, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    targets = draw * torch.tensor([BATCH, NUM_CLASSES, 1, 1, 0.8, 0.8])
    targets[:, :2] = targets[:, :2].floor()
    targets[1] = targets[0]
    targets[2, 4:] = 0.01
    targets[3, 2:4] = torch.tensor([1.0, 0.0])
    targets[4, 0] = -1
    return targets


def iou(first, second):
    width = max(min(first[2], second[2]) - max(first[0], second[0]), 0)
    height = max(min(first[3], second[3]) - max(first[1], second[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height + 1e-7)


def points_by_loops(predictions):
    """Return x, y of each point, and of each point and image the predicted xyxy and the scores."""
    points, boxes, scores = [], [], []
    for level, stride in zip(predictions, STRIDES.tolist(), strict=True):
        for y, x in itertools.product(range(level.shape[2]), range(level.shape[3])):
            px, py = (x + 0.5) * stride, (y + 0.5) * stride
            fractions = level[:, 0, y, x, : 4 * NUM_BINS].view(BATCH, 4, NUM_BINS).softmax(dim=-1)
            distances = sum(fractions[..., index] * index for index in range(NUM_BINS)) * stride
            points.append((px, py))
            boxes.append([[px - d[0], py - d[1], px + d[2], py + d[3]] for d in distances.tolist()])
            scores.append(level[:, 0, y, x, 4 * NUM_BINS :].sigmoid().tolist())
    return points, boxes, scores


def assignment_by_loops(predictions, targets):
    """Return {(image, point): (target, soft target)} as TOOD defines it, for each target and each point in its box."""
    points, boxes, scores = points_by_loops(predictions)
    claims = {}
    for number, (image, kind, cx, cy, w, h) in enumerate(targets.tolist()):
        if image < 0:
            continue
        image, kind = int(image), int(kind)
        box = [(cx - w / 2) * WIDTH, (cy - h / 2) * HEIGHT, (cx + w / 2) * WIDTH, (cy + h / 2) * HEIGHT]
        half_w, half_h = max(w * WIDTH / 2, 4), max(h * HEIGHT / 2, 4)
        found = []
        for index, (px, py) in enumerate(points):
            if abs(px - cx * WIDTH) <= half_w and abs(py - cy * HEIGHT) <= half_h:
                overlap = iou(boxes[index][image], box)
                found.append((scores[index][image][kind] ** 0.5 * overlap**6, overlap, index))
        found.sort(key=lambda item: -item[0])
        for metric, overlap, index in found[:POINTS_A_TARGET]:
            holder = claims.get((image, index))
            if holder is None or overlap > holder[2]:
                claims[image, index] = (number, metric, overlap)
    largest = {}
    for number, metric, overlap in claims.values():
        metrics, overlaps = largest.setdefault(number, ([], []))
        metrics.append(metric)
        overlaps.append(overlap)
    return {
        place: (number, metric / max(max(largest[number][0]), 1e-30) * max(largest[number][1]))
        for place, (number, metric, _) in claims.items()
    }


def assigned(predictions, targets):
    """Return the assignment of the loss in the form of `assignment_by_loops`."""
    outputs = torch.cat([level.flatten(1, 3) for level in predictions], dim=1)
    points = grid_points(predictions, STRIDES)
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64)
    centres, halves = targets[:, 2:4] * size, targets[:, 4:6] * size / 2
    boxes = torch.cat((centres - halves, centres + halves), dim=1)
    logits, scores = outputs.split((4 * NUM_BINS, NUM_CLASSES), dim=2)
    found = assign(logits, scores, points, targets[:, 0], boxes, targets[:, 1].long().clamp(min=0))
    return {
        divmod(found.points[number, index].item(), len(points.centres)): (number, found.weights[number, index].item())
        for number, index in found.mask.nonzero().tolist()
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num", [8, 40])
def test_assignment_equals_loops_over_targets_and_points(num, seed):
    """Forty targets share points, so that a point goes to the target that it overlaps most."""
    predictions, targets = predictions_of(seed), targets_of(num, seed)
    expected, found = assignment_by_loops(predictions, targets), assigned(predictions, targets)
    assert found.keys() == expected.keys() and len(found) > 20
    for place, (number, weight) in expected.items():
        assert found[place][0] == number
        assert found[place][1] == pytest.approx(weight, rel=1e-9, abs=1e-15)


def loss_by_loops(predictions, targets, hyp, smoothing):
    """Return the terms, from dense targets."""
    outputs = torch.cat([level.flatten(1, 3) for level in predictions], dim=1)
    points = grid_points(predictions, STRIDES)
    dense = torch.zeros(BATCH, outputs.shape[1], NUM_CLASSES, dtype=torch.float64)
    overlap_sum = focal_sum = total = 0.0
    size = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT], dtype=torch.float64)
    for (image, index), (number, weight) in assignment_by_loops(predictions, targets).items():
        dense[image, index] = smoothing / 2 * weight
        dense[image, index, int(targets[number, 1])] = (1 - smoothing / 2) * weight
        stride, (px, py) = points.strides[index].item(), points.centres[index].tolist()
        cx, cy, w, h = (targets[number, 2:] * size).tolist()
        logits = outputs[image, index, : 4 * NUM_BINS].view(4, NUM_BINS)
        left, top, right, bottom = (distances_of(logits.flatten()) * stride).tolist()
        predicted = [px + (right - left) / 2, py + (bottom - top) / 2, left + right, top + bottom]
        overlap = ciou_cxcywh(torch.tensor(predicted).double(), torch.tensor([cx, cy, w, h]).double()).item()
        overlap_sum += weight * (1 - overlap)
        wanted = [px - cx + w / 2, py - cy + h / 2, cx + w / 2 - px, cy + h / 2 - py]
        for side, distance in enumerate(wanted):
            distance = min(max(distance / stride, 0), NUM_BINS - 1.01)
            below, fractions = math.floor(distance), logits[side].softmax(dim=0)
            entropy = -(below + 1 - distance) * fractions[below].log() - (distance - below) * fractions[below + 1].log()
            focal_sum += weight * entropy.item() / 4
        total += weight
    entropy = functional.binary_cross_entropy_with_logits(
        outputs[..., 4 * NUM_BINS :], dense, reduction="sum", pos_weight=torch.full((), hyp.cls_pw)
    ).item()
    total = max(total, 1)
    return {"iou": hyp.iou * overlap_sum / total, "cls": hyp.cls * entropy / total, "dfl": hyp.dfl * focal_sum / total}


@pytest.mark.parametrize(("num", "smoothing", "cls_pw"), [(8, 0.0, 1.0), (40, 0.0, 1.0), (40, 0.1, 2.0)])
def test_terms_equal_sums_over_dense_targets(num, smoothing, cls_pw):
    hyp = Hyperparameters(cls_pw=cls_pw)
    predictions, targets = predictions_of(7), targets_of(num, 7)
    found = TaskAlignedLoss(STRIDES, NUM_CLASSES, hyp, smoothing)(predictions, targets)
    expected = loss_by_loops(predictions, targets, hyp, smoothing)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-6)


def test_focal_weight_changes_class_term_as_for_dense_targets():
    predictions, targets = predictions_of(3), targets_of(20, 3)
    found = TaskAlignedLoss(STRIDES, NUM_CLASSES, Hyperparameters(fl_gamma=1.5))(predictions, targets)["cls"]
    logits = torch.cat([level.flatten(1, 3) for level in predictions], dim=1)[..., 4 * NUM_BINS :]
    dense = torch.zeros_like(logits)
    places = assignment_by_loops(predictions, targets)
    for (image, index), (number, weight) in places.items():
        dense[image, index, int(targets[number, 1])] = weight
    entropy = functional.binary_cross_entropy_with_logits(logits, dense, reduction="none")
    right = dense * logits.sigmoid() + (1 - dense) * (1 - logits.sigmoid())
    focal = (entropy * (dense * 0.25 + (1 - dense) * 0.75) * (1 - right) ** 1.5).sum()
    total = max(sum(weight for _, weight in places.values()), 1)
    assert found.item() == pytest.approx(0.5 * focal.item() / total, rel=1e-6)


def test_distribution_focal_has_numerical_gradient_and_is_least_at_distance():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, NUM_BINS, generator=generator, dtype=torch.float64, requires_grad=True)
    distances = torch.tensor([0.0, 0.3, 7.0, 14.2, 14.99, 40.0], dtype=torch.float64)

    def loss(values):
        return distribution_focal(values.log_softmax(dim=1), distances)

    (gradient,) = torch.autograd.grad(loss(logits).sum(), logits)
    for row, column in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 7), (3, 14), (3, 15), (4, 14), (5, 15), (5, 3)]:
        step = torch.zeros_like(logits)
        step[row, column] = 1e-6
        slope = (loss(logits + step).sum() - loss(logits - step).sum()) / 2e-6
        assert gradient[row, column].item() == pytest.approx(slope.item(), abs=1e-7)
    for _ in range(2000):  # the mean of the distribution that it prefers is the distance
        (gradient,) = torch.autograd.grad(loss(logits).sum(), logits)
        logits = (logits - 2 * gradient).detach().requires_grad_()
    means = (logits.softmax(dim=1) * torch.arange(NUM_BINS)).sum(dim=1)
    assert means.tolist() == pytest.approx(distances.clamp(max=14.99).tolist(), abs=0.02)


def test_larger_overlap_lowers_every_term():
    """A box that fits better, of a surer class, costs less in each term."""
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    loss = TaskAlignedLoss(STRIDES, NUM_CLASSES, Hyperparameters())
    predictions = [level.requires_grad_() for level in predictions_of(1, spread=0.1)]
    before = {name: value.item() for name, value in loss(predictions, targets).items()}
    for _ in range(60):
        gradients = torch.autograd.grad(sum(loss(predictions, targets).values()), predictions)
        predictions = [
            (level - gradient).detach().requires_grad_() for level, gradient in zip(predictions, gradients, strict=True)
        ]
    after = {name: value.item() for name, value in loss(predictions, targets).items()}
    assert all(after[name] < 0.6 * before[name] for name in before), (before, after)


def test_no_term_dominates_at_first_step_and_after_twenty():
    """Distances in pixels instead of cells once made one term 97 % of a loss."""
    torch.manual_seed(0)
    model = build_model("yolov5n-af", NUM_CLASSES).train()
    loss = model.head.loss(Hyperparameters(), 128, 0.0)
    images = torch.rand(4, 3, 128, 128)
    targets = torch.rand(16, 6) * torch.tensor([4, NUM_CLASSES, 0.5, 0.5, 0.4, 0.4]) + torch.tensor(
        [0, 0, 0.25, 0.25, 0.1, 0.1]
    )
    targets[:, :2] = targets[:, :2].floor()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
    fractions = []
    for _ in range(21):
        terms = torch.stack(list(loss(model(images), targets).values()))
        fractions.append((terms / terms.sum()).detach())
        optimizer.zero_grad()
        (terms.sum() * len(images)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    for number in (0, 20):
        assert fractions[number].min() > 0.02 and fractions[number].max() < 0.85, fractions[number]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_points_of_outputs_of_any_type_lie_at_cell_centres(dtype):
    """bf16 counts to 256: centres and decoded boxes of mixed precision would lie up to two pixels beside them."""
    level = torch.zeros(1, 1, 80, 80, 4, dtype=dtype)
    centres = grid_points([level], torch.tensor([8.0])).centres
    assert torch.equal(centres[-1].double(), torch.tensor([636.0, 636.0]).double())
    assert torch.equal(centres[:80, 0].double(), torch.arange(80).double() * 8 + 4)
