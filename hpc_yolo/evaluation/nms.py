"""Non-maximum suppression: from all decoded predictions of an image to its detections, without a time limit.

Greedy: candidates, highest score first, are kept unless they overlap a kept one of their class too much. A decision
depends on candidates of higher score only, so that suppression runs on growing prefixes of their order and ends with
the first that yields all detections wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpc_yolo.evaluation.nms_operator import load_nms
from hpc_yolo.models.boxes import cxcywh_to_xyxy

MAX_CANDIDATES = 30_000
FIRST_PREFIX = 2  # candidates in the first prefix, as a multiple of the detections wanted
PREFIX_GROWTH = 4

nms = load_nms()


def non_max_suppression(
    decoded: torch.Tensor,
    *,
    conf_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    max_detections: int = 300,
    multi_label: bool = True,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
) -> list[torch.Tensor]:
    """Return the detections of each image: (n, 6) xyxy in input pixels, score, class, highest score first.

    Equal scores are ordered by prediction and class.

    Args:
        decoded: (B, predictions, 5 + classes) cxcywh, objectness, class scores, as the head decodes them.
        multi_label: every class above the threshold becomes a detection, else only the best of a prediction.
        agnostic: boxes of different classes suppress each other too.
        classes: return only these.
    """
    multi_label = multi_label and decoded.shape[2] > 6
    above = decoded[..., 4] > conf_threshold
    found = []
    for image, is_above in zip(decoded, above, strict=True):
        candidates = _candidates(image[is_above].float(), conf_threshold, multi_label, classes)
        found.append(_suppress(candidates, iou_threshold, max_detections, agnostic))
    return found


def _candidates(
    rows: torch.Tensor, conf_threshold: float, multi_label: bool, wanted: Sequence[int] | None
) -> torch.Tensor:
    """Return (n, 6) xyxy, score, class of the candidates with the highest scores, best first."""
    rows = rows[rows[:, 5:].amax(dim=1) * rows[:, 4] > conf_threshold]
    scores = rows[:, 5:] * rows[:, 4:5]
    if multi_label:
        row_index, classes = (scores > conf_threshold).nonzero(as_tuple=True)
        confidences = scores[row_index, classes]
    else:
        confidences, classes = scores.max(dim=1)
        (row_index,) = (confidences > conf_threshold).nonzero(as_tuple=True)
        confidences, classes = confidences[row_index], classes[row_index]
    if wanted is not None:
        is_wanted = torch.isin(classes, classes.new_tensor(wanted))
        row_index, classes, confidences = row_index[is_wanted], classes[is_wanted], confidences[is_wanted]
    order = _highest(confidences)
    row_index, classes, confidences = row_index[order], classes[order], confidences[order]
    boxes = cxcywh_to_xyxy(rows[row_index, :4])
    return torch.cat((boxes, confidences[:, None], classes[:, None].to(boxes.dtype)), dim=1)


def _highest(confidences: torch.Tensor) -> torch.Tensor:
    """Return the indices of the MAX_CANDIDATES largest, in order; equal ones in their given order, at the cut too."""
    if len(confidences) <= MAX_CANDIDATES:
        return confidences.sort(stable=True, descending=True).indices
    least = confidences.topk(MAX_CANDIDATES, sorted=False).values.min()
    (chosen,) = (confidences >= least).nonzero(as_tuple=True)
    return chosen[confidences[chosen].sort(stable=True, descending=True).indices[:MAX_CANDIDATES]]


def _suppress(candidates: torch.Tensor, iou_threshold: float, max_detections: int, agnostic: bool) -> torch.Tensor:
    if len(candidates) == 0:
        return candidates
    boxes, scores = candidates[:, :4].double(), candidates[:, 4].double()
    if not agnostic:
        boxes = moved_apart(boxes, candidates[:, 5])
    prefix = FIRST_PREFIX * max_detections
    while True:
        kept = nms(boxes[:prefix], scores[:prefix], iou_threshold)
        if len(kept) >= max_detections or prefix >= len(boxes):
            return candidates[kept[:max_detections]]
        prefix *= PREFIX_GROWTH


def moved_apart(boxes: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return `boxes` (n, 4) xyxy with those of each class in a region of their own, so that they suppress no others.

    In double precision this does not change their IoU.
    """
    boxes = boxes.double()
    if len(boxes) == 0:
        return boxes
    return boxes + classes[:, None].double() * (boxes.max() - boxes.min()).ceil().add(1)
