"""A head without anchors: one prediction a cell, box and classes from branches of their own.

Sources: YOLOX (arXiv 2107.08430) for the separate branches, Generalized Focal Loss (2006.04388) for distances as
distributions. The 3x3 convolutions of the class branch are depthwise, so that the head costs little more than anchors.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hpc_yolo.models.heads.base import Head, HeadOutput
from hpc_yolo.models.layers import Conv
from hpc_yolo.models.losses.task_aligned import NUM_BINS, TaskAlignedLoss, distances_of, grid_points
from hpc_yolo.spec.recipe import Hyperparameters

PRIOR_OBJECTS = 5  # objects expected on an image of PRIOR_PIXELS
PRIOR_PIXELS = 640
DECAY_BINS = 3.0  # over which the initial weight of a bin falls by e
WIDTH_MULTIPLE = 8
SIDES = 4  # left, top, right, bottom


class AnchorFree(Head):
    """Predictions of one box around the centre of every cell of every level.

    Raw outputs (B, 1, H, W, 4 x NUM_BINS + classes) are the logits of the distances from the cell's centre to the left,
    top, right and bottom, in cells, and those of the classes. Decoded scores are in [0, 1]; objectness is 1.

    Widths do not depend on the number of classes, so that weights fit a model of other classes.
    """

    def __init__(self, num_classes: int, c_in: list[int]) -> None:
        super().__init__(num_classes, c_in)
        box, kind = max(c_in[0] // 2 // WIDTH_MULTIPLE * WIDTH_MULTIPLE, 2 * WIDTH_MULTIPLE), c_in[0]
        self.box = nn.ModuleList(
            nn.Sequential(Conv(c, box, 3), Conv(box, box, 3), nn.Conv2d(box, SIDES * NUM_BINS, 1)) for c in c_in
        )
        self.classes = nn.ModuleList(
            nn.Sequential(Separable(c, kind), Separable(kind, kind), nn.Conv2d(kind, num_classes, 1)) for c in c_in
        )

    def loss(self, hyp: Hyperparameters, _imgsz: int, label_smoothing: float) -> TaskAlignedLoss:
        """Return the loss with task-aligned assignment; its gains hold for any size of images and any classes."""
        return TaskAlignedLoss(self.strides, self.num_classes, hyp, label_smoothing)

    def set_strides(self, strides: torch.Tensor) -> None:
        """Set the strides as `Head` does, and the prior biases, which depend on them."""
        super().set_strides(strides)
        self._set_prior_biases()

    @torch.no_grad()
    def _set_prior_biases(self) -> None:
        """Set the logits of about five objects an image, and of boxes about five cells wide."""
        decay = -torch.arange(NUM_BINS, device=self.strides.device) / DECAY_BINS
        for box, kind, stride in zip(self.box, self.classes, self.strides.tolist(), strict=True):
            _bias(box).copy_(decay.repeat(SIDES))
            cells = (PRIOR_PIXELS / stride) ** 2
            nn.init.constant_(_bias(kind), math.log(PRIOR_OBJECTS / self.num_classes / cells))

    def forward(self, levels: list[torch.Tensor]) -> HeadOutput:
        """Return raw predictions of each level while training; else decoded ones and the raw ones."""
        raw = [
            torch.cat((box(level), kind(level)), dim=1).permute(0, 2, 3, 1).unsqueeze(1)
            for box, kind, level in zip(self.box, self.classes, levels, strict=True)
        ]
        return raw if self.training else (self._decode(raw), raw)

    def _decode(self, raw: list[torch.Tensor]) -> torch.Tensor:
        """Decode the raw outputs of all levels into (B, predictions, 5 + classes)."""
        outputs = torch.cat([level.flatten(1, 3) for level in raw], dim=1)
        if outputs.dtype in (torch.bfloat16, torch.float16):
            outputs = outputs.float()  # 8 bits of precision would round to every fourth pixel
        points = grid_points(raw, self.strides)
        logits, classes = torch.split(outputs, [SIDES * NUM_BINS, self.num_classes], dim=2)
        to_first, to_last = (distances_of(logits) * points.strides).chunk(2, dim=2)
        centre, size = points.centres + (to_last - to_first) / 2, to_first + to_last
        return torch.cat((centre, size, torch.ones_like(classes[..., :1]), classes.sigmoid()), dim=2)


class Separable(nn.Sequential):
    """A 3x3 convolution of each channel, then a 1x1 of all, with one normalisation and activation after both."""

    def __init__(self, c_in: int, c_out: int) -> None:
        depthwise = nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in, bias=False)
        super().__init__(depthwise, Conv(c_in, c_out, 1))


def _bias(branch: nn.Module) -> torch.Tensor:
    """Return the bias of the last convolution of `branch`."""
    assert isinstance(branch, nn.Sequential)
    last = branch[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    return last.bias
