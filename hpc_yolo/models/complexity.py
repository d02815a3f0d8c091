"""How large a network is and how much it computes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpc_yolo.models.family import build_model


@dataclass(frozen=True)
class Complexity:
    """`conv_macs`: multiply-adds of all convolutions for one image."""

    num_parameters: int
    conv_macs: int

    @property
    def gflops(self) -> float:
        """Two operations a multiply-add, as the family's published figures count them."""
        return 2 * self.conv_macs / 1e9


@torch.no_grad()
def complexity(name: str | Path, num_classes: int, imgsz: int = 640) -> Complexity:
    """The figures of the network `name` for square images of `imgsz`, or the next multiple of its largest stride.

    Nothing is computed: shapes alone pass through the network, so that the largest takes no memory.

    Raises:
        SpecError: no such model, or its config makes no sense.
    """
    macs = 0

    def count(conv: nn.Conv2d, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal macs
        macs += conv.weight.numel() * output.shape[2] * output.shape[3]

    with torch.device("meta"):
        model = build_model(name, num_classes).eval()
        model.head.train()  # decoding is no convolution
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        stride = model.image_stride
        side = math.ceil(imgsz / stride) * stride
        model(torch.zeros(1, 3, side, side))
    return Complexity(sum(parameter.numel() for parameter in model.parameters()), macs)
