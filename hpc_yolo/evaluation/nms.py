"""Non-maximum suppression: from all decoded rows of a picture to its detections, and no clock that ends it."""

from __future__ import annotations

import torch
import torchvision

from hpc_yolo.boxes import cxcywh_to_xyxy

MAX_CANDIDATES = 30_000


def non_max_suppression(
    decoded: torch.Tensor,
    *,
    conf_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    max_detections: int = 300,
    multi_label: bool = True,
    agnostic: bool = False,
) -> list[torch.Tensor]:
    """Detections of each picture: (n, 6) xyxy in input pixels, score, class; best first.

    Args:
        decoded: (B, rows, 5 + classes) cxcywh, objectness, class scores, as the head decodes them.
        multi_label: every class of a row that is sure enough becomes a detection, else only its best.
        agnostic: boxes of different classes suppress each other too.
    """
    multi_label = multi_label and decoded.shape[2] > 6
    sure = decoded[..., 4] > conf_threshold
    return [
        _suppress(rows[kept].float(), conf_threshold, iou_threshold, max_detections, multi_label, agnostic)
        for rows, kept in zip(decoded, sure, strict=True)
    ]


def _suppress(
    rows: torch.Tensor,
    conf_threshold: float,
    iou_threshold: float,
    max_detections: int,
    multi_label: bool,
    agnostic: bool,
) -> torch.Tensor:
    scores = rows[:, 5:] * rows[:, 4:5]
    if multi_label:
        row_index, classes = (scores > conf_threshold).nonzero(as_tuple=True)
        confidences = scores[row_index, classes]
    else:
        confidences, classes = scores.max(dim=1)
        (row_index,) = (confidences > conf_threshold).nonzero(as_tuple=True)
        confidences, classes = confidences[row_index], classes[row_index]
    if len(confidences) > MAX_CANDIDATES:
        confidences, best = confidences.topk(MAX_CANDIDATES)
        row_index, classes = row_index[best], classes[best]
    boxes = cxcywh_to_xyxy(rows[row_index, :4])
    groups = torch.zeros_like(classes) if agnostic else classes
    kept = torchvision.ops.batched_nms(boxes, confidences, groups, iou_threshold)[:max_detections]
    return torch.cat((boxes[kept], confidences[kept, None], classes[kept, None].to(boxes.dtype)), dim=1)
