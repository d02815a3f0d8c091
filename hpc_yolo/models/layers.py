"""The blocks that the layers of a model config name. Shapes are (B, C, H, W)."""

from __future__ import annotations

import torch
from torch import nn

BATCHNORM_EPSILON = 1e-3
BATCHNORM_MOMENTUM = 0.03


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, SiLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        if padding > kernel:
            raise ValueError(f"a padding of {padding} around a kernel of {kernel}")
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=BATCHNORM_EPSILON, momentum=BATCHNORM_MOMENTUM)
        self.act: nn.Module = nn.SiLU()  # in place it would copy its input for the backward pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer."""
        activated: torch.Tensor = self.act(self.bn(self.conv(x)))
        return activated


class Bottleneck(nn.Module):
    """1x1 then 3x3, with the input added where `shortcut` and the widths are equal."""

    def __init__(self, c_in: int, c_out: int, shortcut: bool, expansion: float = 0.5) -> None:
        super().__init__()
        hidden = int(c_out * expansion)
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(hidden, c_out, 3)
        self.adds = shortcut and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer."""
        transformed: torch.Tensor = self.cv2(self.cv1(x))
        return x + transformed if self.adds else transformed


class C3(nn.Module):
    """Two 1x1 halves, one of them followed by `repeats` bottlenecks, joined by a 1x1."""

    def __init__(self, c_in: int, c_out: int, repeats: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        hidden = c_out // 2
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(c_in, hidden, 1)
        self.cv3 = Conv(2 * hidden, c_out, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, expansion=1.0) for _ in range(repeats)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer."""
        joined: torch.Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))
        return joined


class SPPF(nn.Module):
    """Concatenated max-pools of growing size: three 5x5 pools one after the other cover 5x5, 9x9 and 13x13."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(hidden * 4, c_out, 1)
        self.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer."""
        narrow = self.cv1(x)
        pooled = self.m(narrow)
        wider = self.m(pooled)
        joined: torch.Tensor = self.cv2(torch.cat((narrow, pooled, wider, self.m(wider)), dim=1))
        return joined


class Concat(nn.Module):
    """Concatenation of several inputs along the channels."""

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Return the output of the layer."""
        return torch.cat(inputs, dim=1)
