"""The head of YOLOv5: one 1x1 convolution per level, and the decoding of its outputs."""

from __future__ import annotations

import math

import torch
from torch import nn

from hpc_yolo.models.heads.base import BOX_AND_OBJECTNESS, AnchorHead, HeadOutput
from hpc_yolo.models.losses.yolov5 import DetectionLoss, scaled_gains
from hpc_yolo.spec.recipe import Hyperparameters

PRIOR_OBJECTS = 8  # objects expected on an image of PRIOR_PIXELS
PRIOR_PIXELS = 640


class Detect(AnchorHead):
    """Predictions of `num_anchors` boxes in every cell of every level.

    Raw outputs (B, A, H, W, 5 + classes) are x, y, w, h, objectness, classes; decoded scores are in [0, 1], classes
    not yet multiplied by objectness.
    """

    def __init__(self, num_classes: int, anchors_pixels: list[list[float]], c_in: list[int]) -> None:
        super().__init__(num_classes, anchors_pixels, c_in)
        self.num_outputs = BOX_AND_OBJECTNESS + num_classes
        self.m = nn.ModuleList(nn.Conv2d(c, self.num_outputs * self.num_anchors, 1) for c in c_in)

    def loss(self, hyp: Hyperparameters, imgsz: int, label_smoothing: float) -> DetectionLoss:
        """Return the loss of YOLOv5, its gains scaled to this head and to images of `imgsz` pixels."""
        gains = scaled_gains(hyp, num_levels=len(self.strides), num_classes=self.num_classes, imgsz=imgsz)
        return DetectionLoss(self.anchors, self.num_classes, hyp, gains, label_smoothing)

    def set_strides(self, strides: torch.Tensor) -> None:
        """Set the strides as `AnchorHead` does, and the prior biases, which depend on them."""
        super().set_strides(strides)
        self._set_prior_biases()

    @torch.no_grad()
    def _set_prior_biases(self) -> None:
        """Add the logits of about eight objects an image and of equally likely classes (priors as for a focal loss)."""
        for conv, stride in zip(self.m, self.strides.tolist(), strict=True):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            bias = conv.bias.view(self.num_anchors, -1)
            bias[:, 4] += math.log(PRIOR_OBJECTS / (PRIOR_PIXELS / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99999))

    def forward(self, levels: list[torch.Tensor]) -> HeadOutput:
        """Return raw predictions of each level while training; else decoded ones and the raw ones."""
        raw = [self._reshape(conv(level)) for conv, level in zip(self.m, levels, strict=True)]
        if self.training:
            return raw
        return torch.cat([self._decode(level, index) for index, level in enumerate(raw)], dim=1), raw

    def _reshape(self, output: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = output.shape
        split = output.view(batch, self.num_anchors, self.num_outputs, height, width)
        return split.permute(0, 1, 3, 4, 2)

    def _decode(self, raw: torch.Tensor, level: int) -> torch.Tensor:
        """Decode raw (B, A, H, W, outputs) of one level into (B, A * H * W, outputs)."""
        batch, _, height, width, _ = raw.shape
        if raw.dtype in (torch.bfloat16, torch.float16):
            raw = raw.float()  # 8 bits of precision would round to every fourth pixel
        stride = self.strides[level]
        rows = torch.arange(height, device=raw.device, dtype=raw.dtype)
        columns = torch.arange(width, device=raw.device, dtype=raw.dtype)
        grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
        cells = torch.stack((grid_x, grid_y), dim=-1).view(1, 1, height, width, 2)
        sizes = (self.anchors[level] * stride).view(1, self.num_anchors, 1, 1, 2)
        scores = raw.sigmoid()
        centre = (scores[..., 0:2] * 2 - 0.5 + cells) * stride
        size = (scores[..., 2:4] * 2) ** 2 * sizes
        return torch.cat((centre, size, scores[..., 4:]), dim=-1).view(batch, -1, self.num_outputs)
