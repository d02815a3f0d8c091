"""Boxes in two formats, named in every function: xyxy (left, top, right, bottom) and cxcywh (centre, width, height)."""

from __future__ import annotations

import math

import torch

EPSILON = 1e-7


def cxcywh_to_xyxy(boxes: torch.Tensor) -> torch.Tensor:
    """Convert boxes (..., 4) from centre and size to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes: torch.Tensor) -> torch.Tensor:
    """Convert boxes (..., 4) from corners to centre and size."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((first + last) / 2, last - first), dim=-1)


def iou_matrix_xyxy(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the IoU of each box of `first` (N, 4) with each of `second` (M, 4): (N, M) in [0, 1]."""
    intersection = _intersections_xyxy(first, second)
    areas_first, areas_second = _areas_xyxy(first), _areas_xyxy(second)
    return intersection / (areas_first[:, None] + areas_second[None, :] - intersection + EPSILON)


def overlap_fractions_xyxy(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the fraction of each box of `first` (N, 4) that lies in each of `second` (M, 4): (N, M) in [0, 1]."""
    return _intersections_xyxy(first, second) / (_areas_xyxy(first)[:, None] + EPSILON)


def _intersections_xyxy(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    top_left = torch.max(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.min(first[:, None, 2:], second[None, :, 2:])
    return (bottom_right - top_left).clamp(min=0).prod(dim=2)


def _areas_xyxy(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def ciou_cxcywh(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the complete IoU of matching boxes (..., 4): (...), at most 1.

    It is the IoU, less the squared distance of the centres as a fraction of the squared diagonal of the enclosing box,
    less a penalty for a different aspect ratio whose weight carries no gradient.

    Source: Zheng et al., Distance-IoU Loss, AAAI 2020.
    """
    x1, y1, w1, h1 = predicted.unbind(-1)
    x2, y2, w2, h2 = target.unbind(-1)
    left1, right1, top1, bottom1 = x1 - w1 / 2, x1 + w1 / 2, y1 - h1 / 2, y1 + h1 / 2
    left2, right2, top2, bottom2 = x2 - w2 / 2, x2 + w2 / 2, y2 - h2 / 2, y2 + h2 / 2
    overlap_w = (torch.min(right1, right2) - torch.max(left1, left2)).clamp(min=0)
    overlap_h = (torch.min(bottom1, bottom2) - torch.max(top1, top2)).clamp(min=0)
    intersection = overlap_w * overlap_h
    iou = intersection / (w1 * h1 + w2 * h2 - intersection + EPSILON)
    enclosing_w = torch.max(right1, right2) - torch.min(left1, left2)
    enclosing_h = torch.max(bottom1, bottom2) - torch.min(top1, top2)
    diagonal_squared = enclosing_w**2 + enclosing_h**2 + EPSILON
    distance_squared = (x2 - x1) ** 2 + (y2 - y1) ** 2
    aspect = (4 / math.pi**2) * (torch.atan(w2 / h2) - torch.atan(w1 / h1)) ** 2
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + EPSILON))
    return iou - (distance_squared / diagonal_squared + aspect * weight)
