"""The detection head: one 1x1 convolution a level, and what its outputs mean."""

from __future__ import annotations

import math

import torch
from torch import nn

BOX_AND_OBJECTNESS = 5
PRIOR_OBJECTS = 8  # objects expected on an image of PRIOR_PIXELS
PRIOR_PIXELS = 640


class Detect(nn.Module):
    """Predictions of `num_anchors` boxes in every cell of every level.

    In training the output is a list of raw tensors (B, A, H, W, 5 + classes), one a level, in the order x, y, w, h,
    objectness, classes. In evaluation it is (decoded (B, rows, 5 + classes), raw list): boxes cxcywh in input pixels,
    scores in [0, 1], classes not yet multiplied by objectness; rows by level, anchor, y, x.
    """

    anchors: torch.Tensor
    strides: torch.Tensor

    def __init__(self, num_classes: int, anchors_pixels: list[list[float]], c_in: list[int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_anchors = len(anchors_pixels[0]) // 2
        self.num_outputs = BOX_AND_OBJECTNESS + num_classes
        if len(anchors_pixels) != len(c_in):
            raise ValueError(f"{len(anchors_pixels)} rows of anchors for {len(c_in)} levels")
        # (levels, anchors, 2) in grid units: pixels until `set_strides` divides them. On a CPU, so that they are known
        # even to a network whose weights have shapes alone.
        self.register_buffer("anchors", torch.tensor(anchors_pixels, device="cpu").float().view(len(c_in), -1, 2))
        self.register_buffer("strides", torch.ones(len(c_in), device="cpu"), persistent=False)
        self.m = nn.ModuleList(nn.Conv2d(c, self.num_outputs * self.num_anchors, 1) for c in c_in)

    def anchors_pixels(self) -> torch.Tensor:
        """(levels, anchors, 2) width, height in input pixels."""
        return self.anchors * self.strides.view(-1, 1, 1)

    def set_anchors(self, pixels: torch.Tensor) -> None:
        """Take other anchors (levels, anchors, 2) in input pixels, the smallest to the finest level."""
        self.anchors.copy_(_smallest_first(pixels.to(self.anchors), self.strides) / self.strides.view(-1, 1, 1))

    def set_strides(self, strides: torch.Tensor) -> None:
        """Turn pixel anchors into grid units, the smallest anchors to the finest level, and set the prior biases."""
        self.strides.copy_(strides)
        self.set_anchors(self.anchors)
        self._set_prior_biases()

    @torch.no_grad()
    def _set_prior_biases(self) -> None:
        """Start where an image has about eight objects and every class is as likely (focal-loss style priors)."""
        for conv, stride in zip(self.m, self.strides.tolist(), strict=True):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            bias = conv.bias.view(self.num_anchors, -1)
            bias[:, 4] += math.log(PRIOR_OBJECTS / (PRIOR_PIXELS / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99999))

    def forward(self, levels: list[torch.Tensor]) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        raw = [self._reshape(conv(level)) for conv, level in zip(self.m, levels, strict=True)]
        if self.training:
            return raw
        return torch.cat([self._decode(level, index) for index, level in enumerate(raw)], dim=1), raw

    def _reshape(self, output: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = output.shape
        split = output.view(batch, self.num_anchors, self.num_outputs, height, width)
        return split.permute(0, 1, 3, 4, 2).contiguous()

    def _decode(self, raw: torch.Tensor, level: int) -> torch.Tensor:
        """Raw (B, A, H, W, outputs) of one level -> (B, A * H * W, outputs)."""
        batch, _, height, width, _ = raw.shape
        if raw.dtype in (torch.bfloat16, torch.float16):
            raw = raw.float()  # 8 bits know every fourth pixel only
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


def _smallest_first(anchors: torch.Tensor, strides: torch.Tensor) -> torch.Tensor:
    """`anchors` with their levels in the order of `strides`."""
    areas = anchors.prod(dim=-1).mean(dim=-1)
    in_order = (areas[-1] - areas[0]).sign() == (strides[-1] - strides[0]).sign()
    return anchors if in_order else anchors.flip(0)
