"""Batch normalisation and SiLU in training as one operation on a GPU.

Half of the time of a YOLOv5 step on a GPU goes into normalisation and activation, which move data and calculate little.
Done together they read or write the data of a layer 8 times a step instead of 13 (benchmarks/README.md, "On a GPU").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

TILE, WARPS = 1024, 4  # numbers that a program handles at once, and warps that do
MAX_CHANNELS_A_TILE = 128
SUM_TILE, SUM_WARPS = 4096, 8  # of those that sum
MAX_PARTS = 512  # of the rows that are summed apart
SUMMED_COLUMNS = 8192 // MAX_PARTS  # of the sums of parts that a program adds up


def norm_silu(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """Return SiLU of `x` normalised by the statistics of its batch, and update the running statistics of `norm`.

    Args:
        x: (B, C, H, W) on a GPU, channels last, fp16, bf16 or fp32; the result is like it. Sums are in fp32.

    Raises:
        ValueError: a channel has a single value, which has no variance.
        Exception: Triton is missing or cannot build the kernels. It needs a C compiler and Python's headers.
    """
    if x.numel() == x.shape[1]:
        raise ValueError(f"normalisation needs more than one value for each channel, and has {tuple(x.shape)}")
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    output: torch.Tensor = _NormSilu.apply(x, norm.weight, norm.bias, norm)
    return output


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, norm: nn.BatchNorm2d) -> Any:
        from hpc_yolo.models.norm_silu_kernels import forward_kernel, statistics_kernel, sums_kernel

        x = x.contiguous(memory_format=torch.channels_last)
        channels, rows = x.shape[1], x.numel() // x.shape[1]
        sums, rows_each = _memory_for_sums(x)
        mean, rstd = x.new_empty(2, channels, dtype=torch.float32).unbind()
        _launch(sums_kernel, len(sums), SUM_TILE, SUM_WARPS, x, sums, rows, channels, rows_each)
        statistics_kernel[(_tiles(channels, SUMMED_COLUMNS),)](
            *(x, sums, mean, rstd, norm.running_mean, norm.running_var),
            *(rows, channels, len(sums), norm.momentum, norm.eps),
            max_parts=MAX_PARTS,
            block_c=SUMMED_COLUMNS,
        )
        output = torch.empty_like(x)
        _launch(forward_kernel, None, TILE, WARPS, x, output, mean, rstd, weight, bias, rows, channels)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        from hpc_yolo.models.norm_silu_kernels import backward_kernel, gradient_sums_kernel, total_kernel

        x, mean, rstd, weight, bias = ctx.saved_tensors
        grad, stride = _rows_of(gradients[0])
        channels, rows = x.shape[1], x.numel() // x.shape[1]
        sums, rows_each = _memory_for_sums(x)
        given = mean, rstd, weight, bias, rows, channels, stride
        _launch(gradient_sums_kernel, len(sums), SUM_TILE, SUM_WARPS, x, grad, sums, *given, rows_each)
        total = x.new_empty(2, channels, dtype=torch.float32)
        total_kernel[(_tiles(2 * channels, SUMMED_COLUMNS),)](
            sums, total, 2 * channels, len(sums), max_parts=MAX_PARTS, block_c=SUMMED_COLUMNS
        )
        of_x = torch.empty_like(x)
        _launch(backward_kernel, None, TILE, WARPS, x, grad, of_x, total, *given)
        return of_x, total[1].to(weight.dtype), total[0].to(bias.dtype), None


def _launch(kernel: Any, parts: int | None, tile: int, warps: int, x: torch.Tensor, *arguments: Any) -> None:
    """Launch `kernel` over `x` and its channels in tiles, or over parts of its rows."""
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    block_m, block_c = _block(channels, tile)
    grid = parts or _tiles(rows, block_m), _tiles(channels, block_c)
    kernel[grid](x, *arguments, block_m=block_m, block_c=block_c, num_warps=warps)


def _block(channels: int, tile: int) -> tuple[int, int]:
    """Return the rows and channels of a tile of so many numbers."""
    block_c = min(_power_of_two(channels), MAX_CHANNELS_A_TILE)
    return tile // block_c, block_c


def _memory_for_sums(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return memory (parts, 2, channels) for sums over parts of the rows, and the number of rows of a part.

    They depend on the shape alone, so that sums are rounded alike in every attempt.
    """
    channels, rows = x.shape[1], x.numel() // x.shape[1]
    block_m, block_c = _block(channels, SUM_TILE)
    most = max(MAX_PARTS // _tiles(channels, block_c), 1)
    rows_each = _tiles(_tiles(rows, most), block_m) * block_m
    return x.new_empty(_tiles(rows, rows_each), 2, channels, dtype=torch.float32), rows_each


def _rows_of(gradient: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return a gradient whose pixels lie at equal distances in memory, and the distance: a part of a concatenation."""
    _, channels, height, width = gradient.shape
    stride = gradient.stride(3)
    if gradient.stride() == (height * width * stride, 1, width * stride, stride) and stride >= channels:
        return gradient, stride
    return gradient.contiguous(memory_format=torch.channels_last), channels


def _tiles(size: int, tile: int) -> int:
    return -(-size // tile)


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()
