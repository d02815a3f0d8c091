"""Batch normalisation over the batches of all ranks.

On GPUs torch's own SyncBatchNorm is used. It does not support CPU tensors, so under gloo `GlobalBatchNorm2d` does the
same arithmetic with a differentiable all-reduce.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Return `model` with every BatchNorm2d replaced by one over the whole global batch; weights and names stay."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d  # same parameters and buffers, another forward
    return model


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all ranks' batches together (any backend)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise by the statistics of all ranks while training."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        # Every rank holds the same number of values: global batches are split evenly.
        count = input.numel() // input.shape[1] * dist.get_world_size()
        mean = _sum_over_ranks(input) / count
        centred = input - mean.view(1, -1, 1, 1)
        variance = _sum_over_ranks(centred * centred) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1))


def _sum_over_ranks(images: torch.Tensor) -> torch.Tensor:
    """Return (C,) sums of (B, C, H, W) over all ranks, in double precision: rounding must not depend on the split."""
    total: torch.Tensor = _SumOverRanks.apply(images.sum(dim=(0, 2, 3), dtype=torch.float64))
    return total.to(images.dtype)


class _SumOverRanks(torch.autograd.Function):
    """all-reduce(sum); its gradient is the all-reduce(sum) of the gradients."""

    @staticmethod
    def forward(_ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
