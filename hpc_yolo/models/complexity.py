"""The size of a model and the operations of one forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpc_yolo.models.family import build_model
from hpc_yolo.models.layers import Conv


@dataclass(frozen=True)
class Complexity:
    """Parameters of a model, and `conv_macs`: multiply-adds of all its convolutions for one image."""

    num_parameters: int
    conv_macs: int

    @property
    def gflops(self) -> float:
        """Billions of operations, two a multiply-add, as the published values of the family count them."""
        return 2 * self.conv_macs / 1e9


@torch.no_grad()
def complexity(name: str | Path, num_classes: int, imgsz: int = 640) -> Complexity:
    """Return the complexity of the model `name` for square images of `imgsz`, rounded up to its image stride.

    Only shapes pass through the model (meta tensors), so that even the largest model needs no memory.

    Raises:
        SpecError: there is no such model, or its config is invalid.
    """
    macs = 0

    def count(conv: nn.Conv2d, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal macs
        macs += conv.weight.numel() * output.shape[2] * output.shape[3]

    with torch.device("meta"):
        model = build_model(name, num_classes)  # in training mode: decoding is not a convolution
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        for module in model.modules():
            if isinstance(module, Conv):  # its other layers keep the shape, and take most of the time
                module.bn = module.act = nn.Identity()
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        stride = model.image_stride
        side = math.ceil(imgsz / stride) * stride
        model(torch.zeros(1, 3, side, side))
    return Complexity(num_parameters, macs)
