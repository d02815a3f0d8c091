"""Non-maximum suppression inside an exported file: images go in, and boxes come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hpc_yolo.evaluation.nms import moved_apart, nms
from hpc_yolo.models.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from hpc_yolo.models.heads.base import BOX_AND_OBJECTNESS

COLUMNS = 6  # xyxy in input pixels, score, class


@dataclass(frozen=True)
class Suppression:
    """The settings of the suppression; thresholds in [0, 1]. Boxes of different classes do not suppress each other."""

    conf_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 300


class Suppressed(nn.Module):
    """Map images to detections (B, max_detections, 6), highest score first; the rows after the last one are 0.

    Args:
        decode: maps images (B, 3, H, W) to decoded rows (B, rows, 5 + classes).
    """

    def __init__(self, decode: nn.Module, settings: Suppression) -> None:
        super().__init__()
        self.decode, self.settings = decode, settings

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the detections of `images`."""
        return self.detections(*self.candidates(images))

    def candidates(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the boxes (B, rows, 4) xyxy and the score of each class (B, rows, classes) before the suppression."""
        decoded = self.decode(images)
        scores = decoded[..., BOX_AND_OBJECTNESS:] * decoded[..., BOX_AND_OBJECTNESS - 1, None]
        return cxcywh_to_xyxy(decoded[..., :4]), scores

    def detections(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the detections among `boxes` with `scores`, as `candidates` returns them."""
        most = self.settings.max_detections
        scores = torch.where(scores == scores.amax(dim=2, keepdim=True), scores, 0)  # a row has one class, its best
        kept = _Suppress.apply(boxes, scores.transpose(1, 2), self.settings)
        image, kind, row = kept.unbind(1)
        found = scores[image, row, kind]
        rows = torch.cat((boxes[image, row], found[:, None], kind[:, None].to(boxes.dtype)), dim=1)
        rows = torch.cat((rows, rows.new_zeros(most, COLUMNS)))
        is_own = torch.arange(boxes.shape[0], device=kept.device)[:, None] == image
        by_image = torch.cat((torch.where(is_own, found, 0), found.new_zeros(boxes.shape[0], most)), dim=1)
        best, order = by_image.topk(most, dim=1)
        return rows[order] * (best > 0)[..., None]


def as_decoded(detections: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return `detections` (B, n, 6) as decoded rows (B, n, 5 + num_classes), which another suppression leaves alone."""
    is_class = detections[..., 5:] == torch.arange(num_classes, device=detections.device)
    ones = torch.ones_like(detections[..., :1])
    return torch.cat((xyxy_to_cxcywh(detections[..., :4]), ones, is_class * detections[..., 4:5]), dim=2)


class _Suppress(torch.autograd.Function):
    """ONNX's operator NonMaxSuppression: (n, 3) image, class and row of the boxes that are kept, in any order."""

    @staticmethod
    def forward(_ctx: Any, boxes: torch.Tensor, scores: torch.Tensor, settings: Suppression) -> torch.Tensor:
        kept = []
        for number, (of_image, by_class) in enumerate(zip(boxes, scores, strict=True)):
            kind, row = (by_class > settings.conf_threshold).nonzero(as_tuple=True)
            boxes_apart = moved_apart(of_image[row], kind)
            found = nms(boxes_apart, by_class[kind, row].double(), settings.iou_threshold)
            kept.append(torch.stack((torch.full_like(found, number), kind[found], row[found]), dim=1))
        return torch.cat(kept)

    @staticmethod
    def symbolic(graph: Any, boxes: Any, scores: Any, settings: Suppression) -> Any:
        """Return the operator for the exporter."""
        most = graph.op("Constant", value_t=torch.tensor([settings.max_detections]))
        thresholds = (
            graph.op("Constant", value_t=torch.tensor([value]))
            for value in (settings.iou_threshold, settings.conf_threshold)
        )
        return graph.op("NonMaxSuppression", boxes, scores, most, *thresholds)
