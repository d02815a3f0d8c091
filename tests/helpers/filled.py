"""Weights of a model by the formula behind the golden values."""

import torch
from torch import nn


@torch.no_grad()
def fill_by_rule(model: nn.Module) -> None:
    """Set the weights of `model` by the formula that the golden outputs were made with."""
    for position, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        wave = torch.sin(0.37 * torch.arange(tensor.numel(), dtype=torch.float64) + 1.7 * position).view(tensor.shape)
        if tensor.dim() == 4:
            tensor.copy_(wave * (3 / tensor[0].numel()) ** 0.5)
        elif name.endswith("bn.weight"):
            tensor.copy_(1 + 0.2 * wave)
        elif name.endswith(("bn.bias", "running_mean")):
            tensor.copy_(0.1 * wave)
        elif name.endswith("running_var"):
            tensor.copy_(1 + 0.5 * wave)
        elif name.endswith(".bias"):
            tensor.copy_(-2 + wave)
