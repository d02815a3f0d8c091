"""The loss of YOLOv5: assignment of targets to cells, and the terms box, obj and cls.

Every shape depends on the shapes of the inputs alone: all (offset, anchor, target) candidates are kept, with a mask, so
that the host never waits for the device and the loss can be compiled. Source of assignment and terms: YOLOv5 v7.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.nn import functional

from hpc_yolo.models.boxes import ciou_cxcywh
from hpc_yolo.models.losses.base import Loss, SumOverRanks
from hpc_yolo.spec.recipe import Hyperparameters

NEIGHBOUR_REACH = 0.5  # cells nearer than this to a target's centre are assigned too
FOCAL_ALPHA = 0.25
LEVEL_WEIGHTS = (4.0, 1.0, 0.25, 0.06, 0.02)  # P3 to P7
THREE_LEVEL_WEIGHTS = (4.0, 1.0, 0.4)
# Own cell, then the neighbours to the left, above, to the right and below.
OFFSETS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))


class Candidates(NamedTuple):
    """All (5 offsets x A anchors x n targets) candidates of a level, flattened to K.

    Attributes:
        mask: (K,) True for positives.
        cells: (K,) index into the flattened (B, A, H, W).
        boxes: (K, 4) target cxcywh in grid units, relative to the cell.
        anchors: (K, 2) in grid units.
        classes: (K,)
    """

    mask: torch.Tensor
    cells: torch.Tensor
    boxes: torch.Tensor
    anchors: torch.Tensor
    classes: torch.Tensor


def scaled_gains(hyp: Hyperparameters, *, num_levels: int, num_classes: int, imgsz: int) -> dict[str, float]:
    """Return the gains of `hyp`, which hold for 3 levels, 80 classes and 640 pixels, scaled to this model."""
    per_level = 3 / num_levels
    return {
        "box": hyp.box * per_level,
        "obj": hyp.obj * (imgsz / 640) ** 2 * per_level,
        "cls": hyp.cls * num_classes / 80 * per_level,
    }


class DetectionLoss(Loss):
    """Overlap of boxes (box), objectness of cells (obj) and cross entropy of classes (cls).

    Args:
        anchors: (levels, A, 2) in grid units; not copied, so that the loss follows the head.
    """

    anchors: torch.Tensor
    offsets: torch.Tensor

    def __init__(
        self,
        anchors: torch.Tensor,
        num_classes: int,
        hyp: Hyperparameters,
        gains: Mapping[str, float],
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(gains)
        self.register_buffer("anchors", anchors)
        self.register_buffer("offsets", anchors.new_tensor(OFFSETS) * NEIGHBOUR_REACH)
        self.num_classes = num_classes
        self.hyp = hyp
        self.class_on, self.class_off = 1 - label_smoothing / 2, label_smoothing / 2
        self.level_weights = THREE_LEVEL_WEIGHTS if len(anchors) == 3 else LEVEL_WEIGHTS[: len(anchors)]

    def terms(
        self, predictions: list[torch.Tensor], targets: torch.Tensor, sum_over_ranks: SumOverRanks, world_size: int
    ) -> dict[str, torch.Tensor]:
        """Return the terms, means over the positives and cells of the global batch, summed over the levels."""
        candidates = [self.candidates(level, targets, index) for index, level in enumerate(predictions)]
        counts = sum_over_ranks(torch.stack([found.mask.sum() for found in candidates]).to(predictions[0].dtype))
        first, *others = (
            self.level_terms(level, found, counts[index].clamp(min=1), index, world_size)
            for index, (level, found) in enumerate(zip(predictions, candidates, strict=True))
        )
        return {name: sum((terms[name] for terms in others), first[name]) for name in first}

    def candidates(self, level: torch.Tensor, targets: torch.Tensor, index: int) -> Candidates:
        """Return the candidate cells of the targets in level `index`."""
        _, num_anchors, height, width, _ = level.shape
        anchors, targets = self.anchors[index].to(level.dtype), targets.to(level.dtype)
        size = torch.stack(
            (level.new_full((), width), level.new_full((), height))
        )  # a list would be copied from the host
        centres, sizes = targets[:, 2:4] * size, targets[:, 4:6] * size
        ratios = sizes[None] / anchors[:, None]
        fits = torch.max(ratios, 1 / ratios).amax(dim=-1) < self.hyp.anchor_t
        fits = fits & (targets[:, 0] >= 0)
        mask = (_near_cells(centres, size)[:, None] & fits[None]).flatten()
        cells = (centres[None] - self.offsets.to(level.dtype)[:, None]).trunc()  # (5, n, 2) x, y
        cells = torch.minimum(cells.clamp(min=0), size - 1)
        relative = centres[None] - cells
        shape = (len(OFFSETS), num_anchors, len(targets))
        x, y = cells.long().unbind(-1)  # float32 cannot represent all indices of a large batch
        row = targets[:, 0].long() * num_anchors + torch.arange(num_anchors, device=level.device)[:, None]
        flat = ((row[None] * height + y[:, None]) * width + x[:, None]).flatten()
        # Masked candidates get different cells: thousands of writes to equal indices are slow on a GPU.
        anywhere = torch.arange(len(flat), device=level.device) % level[..., 0].numel()
        boxes = torch.cat((relative[:, None].expand(*shape, 2), sizes.expand(*shape, 2)), dim=-1).reshape(-1, 4)
        return Candidates(
            mask=mask,
            cells=torch.where(mask, flat, anywhere),
            boxes=torch.where(mask[:, None], boxes, torch.ones_like(boxes)),  # padding must not make NaN gradients
            anchors=anchors[None, :, None].expand(*shape, 2).reshape(-1, 2),
            classes=targets[:, 1].expand(shape).flatten(),
        )

    def level_terms(
        self, level: torch.Tensor, found: Candidates, count: torch.Tensor, index: int, world_size: int
    ) -> dict[str, torch.Tensor]:
        """Return the terms of one level; `count`: its positives in the global batch."""
        outputs = level.flatten(0, 3)[found.cells]
        centres = outputs[:, 0:2].sigmoid() * 2 - 0.5
        sizes = (outputs[:, 2:4].sigmoid() * 2) ** 2 * found.anchors
        sizes = torch.where(found.mask[:, None], sizes, 1)  # 0/0 in a masked box has a NaN gradient
        ciou = ciou_cxcywh(torch.cat((centres, sizes), dim=-1), found.boxes)
        box = torch.where(found.mask, 1 - ciou, 0).sum() / count
        objectness = level[..., 4]
        obj_targets = _objectness_targets(ciou.detach().clamp(min=0), found, objectness.numel())
        obj = self.cross_entropy(objectness.flatten(), obj_targets, self.hyp.obj_pw).sum()
        obj = obj * (self.level_weights[index] / (objectness.numel() * world_size))
        return {"box": box, "obj": obj, "cls": self.class_term(outputs, found, count)}

    def class_term(self, outputs: torch.Tensor, found: Candidates, count: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy of the classes of the positives; 0 where there is one class only."""
        if self.num_classes == 1:
            return outputs.new_zeros(())
        is_class = found.classes[:, None] == torch.arange(self.num_classes, device=outputs.device)
        targets = torch.where(is_class, self.class_on, self.class_off).to(outputs.dtype)
        entropy = self.cross_entropy(outputs[:, 5:], targets, self.hyp.cls_pw)
        return torch.where(found.mask[:, None], entropy, 0).sum() / (count * self.num_classes)

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor, positive_weight: float) -> torch.Tensor:
        """Return the binary cross entropy of each logit, focal for `fl_gamma` above 0 (Lin et al., ICCV 2017)."""
        weight = None if positive_weight == 1.0 else logits.new_full((), positive_weight)
        entropy = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
        if self.hyp.fl_gamma == 0:
            return entropy
        probability = logits.sigmoid()
        right = targets * probability + (1 - targets) * (1 - probability)
        alpha = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
        return entropy * alpha * (1 - right) ** self.hyp.fl_gamma


def _near_cells(centres: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return (5, n) masks: the own cell, and each neighbour that is near enough to a centre and on the grid."""
    from_end = size - centres
    left_or_top = (centres % 1 < NEIGHBOUR_REACH) & (centres > 1)
    right_or_bottom = (from_end % 1 < NEIGHBOUR_REACH) & (from_end > 1)
    own = torch.ones_like(left_or_top[:, 0])
    return torch.stack((own, *left_or_top.unbind(-1), *right_or_bottom.unbind(-1)))


def _objectness_targets(overlap: torch.Tensor, found: Candidates, num_cells: int) -> torch.Tensor:
    """Return (cells,) the overlap of each cell's last candidate, 0 without one."""
    if len(overlap) == 0:
        return overlap.new_zeros(num_cells)
    order = torch.arange(len(overlap), device=overlap.device)
    none = torch.full((num_cells,), -1, device=overlap.device)
    last = none.scatter_reduce(0, found.cells, torch.where(found.mask, order, -1), "amax")
    return torch.where(last >= 0, overlap[last.clamp(min=0)], 0)
