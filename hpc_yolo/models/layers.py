"""The blocks that the layers of a model config name. Shapes are (B, C, H, W)."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.nn import functional

from hpc_yolo.models.norm_silu import norm_silu

BATCHNORM_EPSILON = 1e-3
BATCHNORM_MOMENTUM = 0.03
BLOCK_CHANNELS = 16  # of a block of 2 x 2 pixels with 3 channels each: matrix units want a multiple of 8


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
        self.is_joined = False  # normalisation and activation are one operation; see `join_norm_silu`

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer."""
        convolved = stem_convolution(x, self.conv) if x.is_cuda and _is_stem(self.conv) else self.conv(x)
        if self.is_joined and self.training and isinstance(self.bn, nn.BatchNorm2d):
            return norm_silu(convolved, self.bn)
        activated: torch.Tensor = self.act(self.bn(convolved))
        return activated


def join_norm_silu(model: nn.Module, joined: bool = True) -> None:
    """Let every normalisation that SiLU follows be one operation with it while training; or separate ones again.

    A launch of such a kernel costs the host more than one of torch's own: it pays in CUDA graphs.
    """
    for module in model.modules():
        if isinstance(module, Conv):
            is_known = type(module.bn) is nn.BatchNorm2d and type(module.act) is nn.SiLU
            module.is_joined = joined and is_known and module.conv.weight.dtype is torch.float32


def stem_convolution(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """Return the output of a stem, a convolution of kernel 6, stride 2 and padding 2, computed over blocks of pixels.

    It is one of kernel 3, stride 1 and padding 1 over blocks of 2 x 2 pixels. GPUs are slow at convolutions of three
    channels; CPUs are not, and take longer for this one.
    """
    size, channels, height, width = x.shape
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    blocks = torch.zeros(size, height // 2, width // 2, BLOCK_CHANNELS, dtype=dtype, device=x.device)
    pixels = x.permute(0, 2, 3, 1).reshape(size, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
    blocks[..., : 4 * channels].view(*pixels.shape).copy_(pixels)
    weight = conv.weight.reshape(-1, channels, 3, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
    weight = functional.pad(weight, (0, 0, 0, 0, 0, BLOCK_CHANNELS - 4 * channels))
    return functional.conv2d(
        blocks.permute(0, 3, 1, 2), weight.contiguous(memory_format=torch.channels_last), conv.bias, padding=1
    )


def _is_stem(conv: nn.Conv2d) -> bool:
    is_alike = conv.kernel_size == (6, 6) and conv.stride == (2, 2) and conv.padding == (2, 2)
    return is_alike and 4 * conv.in_channels <= BLOCK_CHANNELS


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


class Upsample(nn.Upsample):
    """Repetition of every cell in both directions, in the type of the input: on GPUs autocast would make it fp32."""

    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="nearest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer."""
        with torch.autocast("cuda", enabled=False) if x.is_cuda else contextlib.nullcontext():
            return super().forward(x)


class Concat(nn.Module):
    """Concatenation of several inputs along the channels."""

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Return the output of the layer."""
        return torch.cat(inputs, dim=1)
