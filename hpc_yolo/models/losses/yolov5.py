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
from hpc_yolo.models.losses.base import Loss, SumOverRanks, at_least_fp32
from hpc_yolo.models.losses.focal import focal_weight
from hpc_yolo.spec.recipe import Hyperparameters

NEIGHBOUR_REACH = 0.5  # cells nearer than this to a target's centre are assigned too
LEVEL_WEIGHTS = (4.0, 1.0, 0.25, 0.06, 0.02)  # P3 to P7
THREE_LEVEL_WEIGHTS = (4.0, 1.0, 0.4)
# Own cell, then the neighbours to the left, above, to the right and below.
OFFSETS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))


class Candidates(NamedTuple):
    """All candidates of each of L levels: 5 offsets x A anchors x n targets, flattened to K.

    Attributes:
        mask: (L, K) True for positives.
        cells: (L, K) index into the flattened (B, H, W, A) of the level, the order of its outputs in memory.
        boxes: (L, K, 4) target cxcywh in grid units, relative to the cell.
        anchors: (L, K, 2) in grid units.
        classes: (L, K)
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
        """Return the terms, means over the positives and cells of the global batch, summed over the levels.

        All levels are computed together: for a small model the launches of a GPU's kernels are what costs time.
        """
        found = self.candidates(predictions, targets)
        counts = sum_over_ranks(found.mask.sum(dim=1).to(found.boxes.dtype)).clamp(min=1)
        outputs = torch.stack(
            [
                level.permute(0, 2, 3, 1, 4).flatten(0, 3)[cells]
                for level, cells in zip(predictions, found.cells.unbind(), strict=True)
            ]
        ).to(found.boxes.dtype)  # (L, K, outputs)
        ciou = ciou_cxcywh(_decoded(outputs, found), found.boxes)
        box = torch.where(found.mask, 1 - ciou, 0).sum(dim=1) / counts
        obj = self.objectness_term(predictions, ciou.detach().clamp(min=0), found, world_size)
        return {"box": box.sum(), "obj": obj, "cls": self.class_term(outputs, found, counts)}

    def candidates(self, predictions: list[torch.Tensor], targets: torch.Tensor) -> Candidates:
        """Return the candidate cells of the targets in each level."""
        dtype, num_anchors = at_least_fp32(predictions[0].dtype), predictions[0].shape[1]
        anchors, targets = self.anchors.to(dtype), targets.to(dtype)
        grid, num_cells = _grid_sizes(predictions)
        size = grid.to(dtype)[:, None]
        centres, sizes = targets[:, 2:4] * size, targets[:, 4:6] * size  # (L, n, 2) x, y
        ratios = sizes[:, None] / anchors[:, :, None]
        fits = torch.max(ratios, 1 / ratios).amax(dim=-1) < self.hyp.anchor_t
        fits = fits & (targets[:, 0] >= 0)
        mask = (_near_cells(centres, size)[:, :, None] & fits[:, None]).flatten(1)
        cells = (centres[:, None] - self.offsets.to(dtype)[:, None]).trunc()  # (L, 5, n, 2)
        cells = torch.minimum(cells.clamp(min=0), size[:, None] - 1)
        relative = centres[:, None] - cells
        shape = (len(predictions), len(OFFSETS), num_anchors, len(targets))
        x, y = cells.long()[:, :, None].unbind(-1)  # float32 cannot represent all indices of a large batch
        anchor = torch.arange(num_anchors, device=targets.device)[:, None]
        width, height = grid[:, :, None, None, None].unbind(1)
        flat = (((targets[:, 0].long() * height + y) * width + x) * num_anchors + anchor).flatten(1)
        # Masked candidates get different cells: thousands of writes to equal indices are slow on a GPU.
        anywhere = torch.arange(mask.shape[1], device=targets.device) % num_cells[:, None]
        boxes = torch.cat((relative[:, :, None].expand(*shape, 2), sizes[:, None, None].expand(*shape, 2)), dim=-1)
        return Candidates(
            mask=mask,
            cells=torch.where(mask, flat, anywhere),
            boxes=torch.where(mask[..., None], boxes.flatten(1, 3), 1),  # padding must not make NaN gradients
            anchors=anchors[:, None, :, None].expand(*shape, 2).flatten(1, 3),
            classes=targets[:, 1].expand(shape).flatten(1),
        )

    def objectness_term(
        self, predictions: list[torch.Tensor], overlap: torch.Tensor, found: Candidates, world_size: int
    ) -> torch.Tensor:
        """Return the weighted sum over the levels of the mean cross entropy of their cells."""
        logits = [level[..., 4].permute(0, 2, 3, 1).flatten() for level in predictions]
        sizes = [len(level) for level in logits]
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        cells = torch.cat([cells + start for cells, start in zip(found.cells.unbind(), starts, strict=True)])
        targets = _objectness_targets(overlap.flatten(), found.mask.flatten(), cells, sum(sizes))
        entropy = self.cross_entropy(torch.cat(logits).to(targets.dtype), targets, self.hyp.obj_pw)
        weights = [weight / (size * world_size) for weight, size in zip(self.level_weights, sizes, strict=True)]
        parts = zip(torch.split(entropy, sizes), weights, strict=True)
        return torch.stack([part.sum() * weight for part, weight in parts]).sum()

    def class_term(self, outputs: torch.Tensor, found: Candidates, counts: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy of the classes of the positives; 0 where there is one class only."""
        if self.num_classes == 1:
            return outputs.new_zeros(())
        is_class = found.classes[..., None] == torch.arange(self.num_classes, device=outputs.device)
        targets = torch.where(is_class, self.class_on, self.class_off).to(outputs.dtype)
        entropy = self.cross_entropy(outputs[..., 5:], targets, self.hyp.cls_pw)
        sums = torch.where(found.mask[..., None], entropy, 0).sum(dim=(1, 2))
        return (sums / (counts * self.num_classes)).sum()

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor, positive_weight: float) -> torch.Tensor:
        """Return the binary cross entropy of each logit, focal for `fl_gamma` above 0 (Lin et al., ICCV 2017)."""
        weight = None if positive_weight == 1.0 else logits.new_full((), positive_weight)
        entropy = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
        if self.hyp.fl_gamma == 0:
            return entropy
        return entropy * focal_weight(logits, targets, self.hyp.fl_gamma)


def _grid_sizes(predictions: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (width, height) of each level, (L, 2), and its number of cells, (L,), as integers on the device."""
    like = predictions[0].new_empty((), dtype=torch.int64)
    numbers = [n for level in predictions for n in (level.shape[3], level.shape[2], level[..., 0].numel())]
    # One by one: a list would be copied from the host.
    table = torch.stack([like.new_full((), number) for number in numbers]).view(-1, 3)
    return table[:, :2], table[:, 2]


def _decoded(outputs: torch.Tensor, found: Candidates) -> torch.Tensor:
    """Return the boxes (L, K, 4) cxcywh in grid units, relative to the cells, of raw `outputs`."""
    twice = outputs[..., :4].sigmoid() * 2
    sizes = twice[..., 2:] ** 2 * found.anchors
    sizes = torch.where(found.mask[..., None], sizes, 1)  # 0/0 in a masked box has a NaN gradient
    return torch.cat((twice[..., :2] - 0.5, sizes), dim=-1)


def _near_cells(centres: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return (L, 5, n) masks: the own cell, and each neighbour that is near enough to a centre and on the grid."""
    from_end = size - centres
    left_or_top = (centres % 1 < NEIGHBOUR_REACH) & (centres > 1)
    right_or_bottom = (from_end % 1 < NEIGHBOUR_REACH) & (from_end > 1)
    own = torch.ones_like(left_or_top[..., 0])
    return torch.stack((own, *left_or_top.unbind(-1), *right_or_bottom.unbind(-1)), dim=1)


def _objectness_targets(overlap: torch.Tensor, mask: torch.Tensor, cells: torch.Tensor, num_cells: int) -> torch.Tensor:
    """Return (cells,) the overlap of each cell's last candidate, 0 without one."""
    if len(overlap) == 0:
        return overlap.new_zeros(num_cells)
    order = torch.arange(len(overlap), device=overlap.device)
    none = torch.full((num_cells,), -1, device=overlap.device)
    last = none.scatter_reduce(0, cells, torch.where(mask, order, -1), "amax")
    return torch.where(last >= 0, overlap[last.clamp(min=0)], 0)
