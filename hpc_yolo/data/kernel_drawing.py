"""Drawing of a batch by kernels of its own on a GPU, and by `batched_augment` where they cannot be built."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hpc_yolo.data import batched_augment
from hpc_yolo.data.batched_augment import (
    COLUMNS,
    MAX_PARTS,
    TABLE_BITS,
    UNIT,
    WEIGHT_BITS,
    Drawings,
    add_blends,
    colour_tables,
    part_taps,
    warp_layers,
)

BLOCK, WARPS = 128, 2  # pixels of a row that a program draws, and warps that do


def draw_images(drawings: Drawings, shape: tuple[int, int]) -> Tensor:
    """Return uint8 (n, 3, *shape) RGB, channels last in memory: the same bytes, drawn either way."""
    if drawings.pixels.is_cuda and has_kernels(drawings.pixels.device):
        return draw_by_kernels(drawings, shape)
    return batched_augment.draw_images(drawings, shape)


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """Return whether Triton builds kernels for `device` that draw an example right; it needs a C compiler."""
    drawings, shape = example(device), (5, 150)
    try:
        found = draw_by_kernels(drawings, shape)
    except Exception:  # of a compiler that is missing, or a cache that cannot be written
        return False
    return torch.equal(found, batched_augment.draw_images(drawings, shape))


def example(device: torch.device) -> Drawings:
    """Return drawings of two images, one mirrored, whose layers have two parts of noise and grey around them."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (600 + 2 * 256, 3), dtype=torch.uint8, generator=generator)
    parts = torch.zeros(2, MAX_PARTS, COLUMNS, dtype=torch.int64)
    parts[:, 0] = torch.tensor([1, 40, 6, 3, 90, 0, 4])
    parts[:, 2] = torch.tensor([300, 17, 12, 60, 130, 1, 5])
    none, identities = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, 3)
    flips = torch.tensor([[False, False], [True, True]])
    tables = noise[600:].view(2, 256, 3) % 180  # hues are below 180
    drawings = tables, flips, none, none.float(), parts, none.view(0, 3), identities.double(), noise[:600]
    return Drawings(*(array.to(device) for array in drawings))


def draw_by_kernels(drawings: Drawings, shape: tuple[int, int]) -> Tensor:
    """Return what `draw_images` returns.

    Raises:
        Exception: Triton is missing or cannot build the kernels.
    """
    layers = (
        scaled_layers(drawings.parts, drawings.pixels, shape) if len(drawings.parts) else warp_layers(drawings, shape)
    )
    add_blends(layers, drawings)
    return coloured(layers[: len(drawings.flips)], drawings.tables, drawings.flips).permute(0, 3, 1, 2)


def scaled_layers(parts: Tensor, pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return uint8 (l, *shape, 3), as the function of this name of `batched_augment`."""
    from hpc_yolo.data.draw_kernels import scaled_kernel

    height, width = shape
    layers = pixels.new_empty(len(parts), height, width, 3)
    x, y = part_taps(parts, shape)
    scaled_kernel[_grid(layers)](
        *(pixels, layers, parts, x.first.int(), x.step, x.weight, y.first.int(), y.step, y.weight, height, width),
        num_parts=MAX_PARTS,
        columns=COLUMNS,
        weight_bits=WEIGHT_BITS,
        block=BLOCK,
        num_warps=WARPS,
    )
    return layers


def coloured(images: Tensor, tables: Tensor, flips: Tensor) -> Tensor:
    """Return BGR images (n, height, width, 3) as RGB, recoloured and mirrored as `batched_augment` does."""
    from hpc_yolo.data.draw_kernels import coloured_kernel

    output = torch.empty_like(images)
    coloured_kernel[_grid(images)](
        *(images, output, tables, flips.view(torch.uint8), *colour_tables(images.device), *images.shape[1:3]),
        changes=len(tables) > 0,
        unit=UNIT,
        table_bits=TABLE_BITS,
        block=BLOCK,
        num_warps=WARPS,
    )
    return output


def _grid(images: Tensor) -> tuple[int, int]:
    num_images, height, width, _ = images.shape
    return num_images * height, -(-width // BLOCK)
