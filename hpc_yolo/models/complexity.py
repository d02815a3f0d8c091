"""How large a network is and how much it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hpc_yolo.models.family import Detector


@dataclass(frozen=True)
class Complexity:
    """`conv_macs`: multiply-adds of all convolutions for one picture."""

    num_parameters: int
    conv_macs: int

    @property
    def gflops(self) -> float:
        """Two operations a multiply-add, as the family's published figures count them."""
        return 2 * self.conv_macs / 1e9


@torch.no_grad()
def complexity(model: Detector, imgsz: int = 640) -> Complexity:
    """The figures of `model` on pictures of `imgsz` x `imgsz`, a multiple of its largest stride."""
    stride = int(model.stride.max())
    macs = 0

    def count(conv: nn.Conv2d, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal macs
        macs += conv.weight.numel() * output.shape[2] * output.shape[3]

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d)]
    was_training = model.training
    model.eval()(torch.zeros(1, 3, stride, stride))  # the smallest picture: all maps grow with its sides
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return Complexity(sum(parameter.numel() for parameter in model.parameters()), macs * (imgsz // stride) ** 2)
