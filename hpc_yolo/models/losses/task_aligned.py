"""The loss of the anchor-free head: task-aligned assignment, and the terms iou, cls and dfl.

Every shape depends on the shapes of the inputs alone: all (target, point of its image) pairs are compared, a constant
number of points a target is kept, with a mask, so that the host never waits for the device and the loss can be
compiled. A point is the centre of a cell.

Sources: TOOD (arXiv 2108.07755) for the assignment, Generalized Focal Loss (2006.04388) for the bins of distances.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from hpc_yolo.models.boxes import EPSILON, ciou_cxcywh
from hpc_yolo.models.losses.base import Loss, SumOverRanks, at_least_fp32
from hpc_yolo.models.losses.focal import focal_weight
from hpc_yolo.spec.recipe import Hyperparameters

NUM_BINS = 16  # a distance is the mean of 0, 1 … 15 cells
MAX_DISTANCE = NUM_BINS - 1 - 0.01  # cells
POINTS_A_TARGET = 10
IOU_POWER = 6  # of the overlap in the metric; the power of the score is 0.5
LEAST_METRIC = 1e-30


class Points(NamedTuple):
    """All P points of all levels: `centres` (P, 2) x, y and `strides` (P, 1), in input pixels."""

    centres: torch.Tensor
    strides: torch.Tensor


class Assignment(NamedTuple):
    """The points kept for each of n targets, K a target; most of n x K are masked by a weight of 0.

    Attributes:
        points: (n, K) indices into the flattened (B, P) of all images.
        weights: (n, K) soft targets in [0, 1]: the overlap that the best point of the target has, or less.
        mask: (n, K) True for positives.
    """

    points: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor


class TaskAlignedLoss(Loss):
    """Overlap of boxes (iou), cross entropy of classes (cls) and of the bins of distances (dfl).

    Args:
        strides: (levels,) input pixels a cell.
    """

    strides: torch.Tensor

    def __init__(
        self, strides: torch.Tensor, num_classes: int, hyp: Hyperparameters, label_smoothing: float = 0.0
    ) -> None:
        super().__init__({"iou": hyp.iou, "cls": hyp.cls, "dfl": hyp.dfl})
        self.register_buffer("strides", strides)
        self.num_classes = num_classes
        self.hyp = hyp
        self.class_on, self.class_off = 1 - label_smoothing / 2, label_smoothing / 2

    def terms(
        self, predictions: list[torch.Tensor], targets: torch.Tensor, sum_over_ranks: SumOverRanks, _world_size: int
    ) -> dict[str, torch.Tensor]:
        """Return the terms: sums, weighted by soft targets, over the sum of the soft targets of the global batch."""
        predictions = [level.to(at_least_fp32(level.dtype)) for level in predictions]
        outputs = torch.cat([level.flatten(1, 3) for level in predictions], dim=1)
        logits, scores = torch.split(outputs, [4 * NUM_BINS, self.num_classes], dim=2)  # (B, P, …)
        points = grid_points(predictions, self.strides)
        boxes, classes = _targets_in_pixels(predictions[0], targets, self.strides[0])
        with torch.no_grad():
            found = assign(logits, scores, points, targets[:, 0], boxes, classes)
        total = sum_over_ranks(found.weights.sum()).clamp(min=1)
        iou, dfl = self.box_terms(logits, points, boxes, found)
        return {"iou": iou / total, "cls": self.class_term(scores, classes, found) / total, "dfl": dfl / total}

    def box_terms(
        self, logits: torch.Tensor, points: Points, boxes: torch.Tensor, found: Assignment
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted sums of 1 - CIoU and of the distribution focal loss of the kept points."""
        own = found.points % len(points.centres)
        centres, strides = points.centres[own], points.strides[own]
        wanted = torch.cat((centres - boxes[:, None, :2], boxes[:, None, 2:] - centres), dim=2) / strides  # (n, K, 4)
        kept = logits.flatten(0, 1).index_select(0, found.points.flatten()).view(*wanted.shape, NUM_BINS)
        log_fractions = kept.log_softmax(dim=3)
        overlap = ciou_cxcywh(_around_point(_expectation(log_fractions.exp())), _around_point(wanted))
        iou = torch.where(found.mask, (1 - overlap) * found.weights, 0).sum()
        dfl = (distribution_focal(log_fractions, wanted).mean(dim=2) * found.weights).sum()
        return iou, dfl

    def class_term(self, scores: torch.Tensor, classes: torch.Tensor, found: Assignment) -> torch.Tensor:
        """Return the sum of the cross entropy of all points and classes.

        It is the sum without any object plus the change at the kept points, so that no dense targets are made.

        Args:
            scores: (B, P, classes) logits.
            classes: (n,) of the targets.
        """
        targets = found.weights * self.class_on
        if self.class_off:
            kept = (
                scores.flatten(0, 1).index_select(0, found.points.flatten()).view(*found.points.shape, self.num_classes)
            )
            is_class = classes[:, None, None] == torch.arange(self.num_classes, device=classes.device)
            targets = torch.where(is_class, targets[..., None], found.weights[..., None] * self.class_off)
        else:
            kept = scores.flatten(0, 1)[found.points, classes[:, None]]
        change = self.cross_entropy(kept, targets) - self.cross_entropy(kept)
        return self.cross_entropy(scores).sum() + change.sum()

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """Return the binary cross entropy of each logit; without `targets` they are 0."""
        entropy = functional.softplus(logits)
        if targets is not None:
            entropy = targets * self.hyp.cls_pw * functional.softplus(-logits) + (1 - targets) * entropy
        if self.hyp.fl_gamma == 0:
            return entropy
        return entropy * focal_weight(
            logits, torch.zeros_like(logits) if targets is None else targets, self.hyp.fl_gamma
        )


def assign(
    logits: torch.Tensor,
    scores: torch.Tensor,
    points: Points,
    images: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
) -> Assignment:
    """Return the points of each target: those of the largest metric inside its box, score^0.5 x IoU^6.

    A point that several targets want goes to the one it overlaps most, then to the first. Soft targets are the metric,
    scaled so that the largest of a target is its largest overlap. A box narrower than a cell of the finest level counts
    as that wide for what is inside, so that it has a point.

    Args:
        logits: (B, P, 4 x NUM_BINS) of the distances.
        scores: (B, P, classes) logits.
        images: (n,) index of each target's image; -1: padding.
        boxes: (n, 4) xyxy in input pixels.
        classes: (n,)
    """
    num_points = scores.shape[1]
    images, is_padding = images.long().clamp(min=0), images[:, None] < 0
    distances = distances_of(logits) * points.strides
    predicted = torch.cat((points.centres - distances[..., :2], points.centres + distances[..., 2:]), dim=2)
    overlap = _iou_of_pairs(predicted.permute(2, 0, 1), images, boxes)
    metric = scores.transpose(1, 2)[images, classes].sigmoid().sqrt() * overlap**IOU_POWER  # (n, P)
    metric = torch.where(_is_inside(points, boxes) & ~is_padding, metric, -1)
    best, chosen = metric.topk(min(POINTS_A_TARGET, num_points), dim=1)
    overlap = overlap.gather(1, chosen)
    flat, wins = _without_conflicts(images[:, None] * num_points + chosen, best >= 0, overlap, scores[..., 0].numel())
    best, overlap = torch.where(wins, best, 0), torch.where(wins, overlap, 0)
    scale = overlap.amax(dim=1, keepdim=True) / best.amax(dim=1, keepdim=True).clamp(min=LEAST_METRIC)
    return Assignment(flat, best * scale, wins)


def distances_of(logits: torch.Tensor) -> torch.Tensor:
    """Return the distances (..., 4) in cells of `logits` (..., 4 x NUM_BINS): the means of their distributions."""
    return _expectation(logits.view(*logits.shape[:-1], 4, NUM_BINS).softmax(dim=-1))


def distribution_focal(log_fractions: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of the two bins beside each of `distances` (...) in cells, weighted by nearness.

    Args:
        log_fractions: (..., NUM_BINS) logarithms of the distribution over the bins.
    """
    distances = distances.clamp(0, MAX_DISTANCE)
    lower = distances.floor()
    nearness = lower + 1 - distances
    index = lower.long()[..., None]
    below, above = log_fractions.gather(-1, index)[..., 0], log_fractions.gather(-1, index + 1)[..., 0]
    return -(nearness * below + (1 - nearness) * above)


def grid_points(predictions: list[torch.Tensor], strides: torch.Tensor) -> Points:
    """Return the points of the levels (B, A, H, W, outputs) of `predictions`, by level, y, x."""
    centres, sizes = [], []
    strides = strides.to(predictions[0].device, at_least_fp32(predictions[0].dtype))
    for level, stride in zip(predictions, strides.unbind(), strict=True):
        height, width = level.shape[2:4]
        x, y = (torch.arange(side, device=level.device, dtype=stride.dtype) + 0.5 for side in (width, height))
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack((grid_x, grid_y), dim=-1).view(-1, 2) * stride)
        sizes.append(stride.expand(height * width, 1))
    return Points(torch.cat(centres), torch.cat(sizes))


def _expectation(fractions: torch.Tensor) -> torch.Tensor:
    """Return the means (...) of distributions (..., NUM_BINS) over the bins."""
    bins = torch.arange(NUM_BINS, device=fractions.device, dtype=fractions.dtype)
    return (fractions * bins).sum(dim=-1)  # a product of matrices would be rounded to 8 bits under autocast


def _around_point(distances: torch.Tensor) -> torch.Tensor:
    """Return the boxes (..., 4) cxcywh, relative to their points, of `distances` (..., 4) left, top, right, bottom."""
    to_first, to_last = distances.chunk(2, dim=-1)
    return torch.cat(((to_last - to_first) / 2, (to_first + to_last).clamp(min=EPSILON)), dim=-1)


def _targets_in_pixels(
    finest: torch.Tensor, targets: torch.Tensor, stride: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (boxes (n, 4) xyxy in input pixels, classes (n,)); `finest` are the predictions of the first level."""
    height, width = (stride.to(finest) * side for side in finest.shape[2:4])
    size = torch.stack((width, height))
    centres, halves = targets[:, 2:4].to(finest) * size, targets[:, 4:6].to(finest) * size / 2
    return torch.cat((centres - halves, centres + halves), dim=1), targets[:, 1].long().clamp(min=0)


def _iou_of_pairs(predicted: torch.Tensor, images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return the IoU (n, P) of each of `boxes` (n, 4) with all `predicted` (4, B, P) boxes of its image."""
    left, top, right, bottom = (side[images] for side in predicted.unbind())
    first_x, first_y, last_x, last_y = boxes[..., None].unbind(1)
    width = (torch.min(right, last_x) - torch.max(left, first_x)).clamp_(min=0)
    height = (torch.min(bottom, last_y) - torch.max(top, first_y)).clamp_(min=0)
    areas = ((predicted[2] - predicted[0]) * (predicted[3] - predicted[1]))[images]
    intersection = width.mul_(height)
    union = areas.add_((last_x - first_x) * (last_y - first_y)).sub_(intersection)
    return intersection.div_(union.add_(EPSILON))


def _is_inside(points: Points, boxes: torch.Tensor) -> torch.Tensor:
    """Return (n, P) whether each point lies in each of `boxes`, which are at least a cell of the finest level wide."""
    centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    halves = torch.maximum(halves, points.strides.min() / 2)
    (x, y), (centre_x, centre_y) = points.centres.unbind(1), centres[..., None].unbind(1)
    half_x, half_y = halves[..., None].unbind(1)
    return ((x - centre_x).abs() <= half_x) & ((y - centre_y).abs() <= half_y)


def _without_conflicts(
    flat: torch.Tensor, is_candidate: torch.Tensor, overlap: torch.Tensor, num_points: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (points, mask), all (n, K), in which a point is a positive of one target only.

    Masked candidates get different points: thousands of writes to equal indices are slow on a GPU.
    """
    order = torch.arange(flat.numel(), device=flat.device).view_as(flat)
    flat = torch.where(is_candidate, flat, order % num_points)
    claims = torch.where(is_candidate, overlap, -1)
    highest = claims.new_full((num_points,), -1).scatter_reduce(0, flat.flatten(), claims.flatten(), "amax")
    wins = is_candidate & (claims == highest[flat])
    none = torch.full((num_points,), flat.numel(), device=flat.device)
    first = none.scatter_reduce(0, flat.flatten(), torch.where(wins, order, flat.numel()).flatten(), "amin")
    return flat, wins & (order == first[flat])
