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
    centres1, sizes1, centres2, sizes2 = predicted[..., :2], predicted[..., 2:], target[..., :2], target[..., 2:]
    first1, last1 = centres1 - sizes1 / 2, centres1 + sizes1 / 2
    first2, last2 = centres2 - sizes2 / 2, centres2 + sizes2 / 2
    (w1, h1), (w2, h2) = sizes1.unbind(-1), sizes2.unbind(-1)
    overlap_w, overlap_h = (torch.min(last1, last2) - torch.max(first1, first2)).clamp(min=0).unbind(-1)
    intersection = overlap_w * overlap_h
    iou = intersection / (w1 * h1 + w2 * h2 - intersection + EPSILON)
    enclosing_w, enclosing_h = ((torch.max(last1, last2) - torch.min(first1, first2)) ** 2).unbind(-1)
    distance_x, distance_y = ((centres2 - centres1) ** 2).unbind(-1)
    distance = (distance_x + distance_y) / (enclosing_w + enclosing_h + EPSILON)
    # Without a least side, the gradient is 0 times infinity for a box of width 1 and height 1e-20.
    ratio1 = w1.clamp(min=EPSILON) / h1.clamp(min=EPSILON)
    aspect = (4 / math.pi**2) * (torch.atan(w2 / h2) - torch.atan(ratio1)) ** 2
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + EPSILON))
    return iou - (distance + aspect * weight)
