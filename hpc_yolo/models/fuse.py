"""Fusing a model for inference: every batch normalisation is folded into its convolution."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hpc_yolo.models.family import Detector
from hpc_yolo.models.layers import Conv


def fused(model: Detector) -> Detector:
    """Return a copy of `model` in evaluation mode that computes the same with fewer operations."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, Conv) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = _folded(module.conv, module.bn)
            module.bn = nn.Identity()
    return copied


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return `conv` with W' = W g / sqrt(v + e), b' = b - m g / sqrt(v + e).

    g, b, m, v, e are weight, bias, mean, variance and epsilon of `norm`.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
    folded.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
    return folded
