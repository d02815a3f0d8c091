"""Augmentation of a whole batch as tensor operations, on any device, from drawings that loader workers have made.

What `drawing.paint` does to one image with OpenCV is done here to all at once: with the whole numbers that OpenCV
calculates with where images are scaled and shifted, so that pixels are equal, and with fractions where they are warped.
Nothing waits for the device, and shapes depend on the batch alone.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpc_yolo.data.colours import CUT_OFF

MAX_PARTS = 4  # of a layer
COLUMNS = 7  # of a part
CHUNK = 16  # images that are worked on at once, which limits memory
WEIGHT_BITS = 11  # weights of OpenCV's resize are whole numbers of 1 / 2048
UNIT = float(np.float32(1 / 255))
# Of the six sectors of hue: red, green and blue are all of the value (0), the least (1), falling (2) or rising (3).
SECTORS = ((0, 3, 1), (2, 0, 1), (1, 0, 3), (1, 2, 0), (3, 1, 0), (0, 1, 2))
TABLE_BITS = 12  # as are the reciprocals in its conversion to hue and saturation, of 1 / 4096


class Drawings(NamedTuple):
    """The drawings of a batch of n images, with b blends, as tensors on one device.

    The layer of image i is i, and the second layer of blend j is n + j. Either all layers consist of parts, or all are
    canvases that are warped.

    Attributes:
        tables: uint8 (n, 256, 3) of hue, saturation and value; (0, 256, 3) where colours do not change.
        flips: bool (n, 2) up-down, left-right.
        blended: int64 (b,) images with a second layer.
        ratios: float32 (b,) fraction of the first layer of each.
        parts: int64 (n + b, 4, 7) or (0, 4, 7): first pixel, width and height of an image or a part of one; left,
            right, top and bottom of its place in the output. Of no width there where a layer has fewer.
        canvases: int64 (n + b, 3) or (0, 3): first pixel, width and height of each.
        inverses: float64 (n + b, 3, 3) or (0, 3, 3): from the output to the canvas.
        pixels: uint8 (p, 3) BGR of all parts or canvases, row after row; the first one is the grey around them.
    """

    tables: Tensor
    flips: Tensor
    blended: Tensor
    ratios: Tensor
    parts: Tensor
    canvases: Tensor
    inverses: Tensor
    pixels: Tensor


def draw_images(drawings: Drawings, shape: tuple[int, int]) -> Tensor:
    """Return uint8 (n, 3, *shape) RGB, channels last in memory."""
    num_images, num_layers = len(drawings.flips), len(drawings.flips) + len(drawings.blended)
    if len(drawings.parts):
        layers = drawings.pixels.new_empty(num_layers, *shape, 3)
        for chunk in chunks(num_layers):
            layers[chunk] = scaled_layers(drawings.parts[chunk], drawings.pixels, shape)
    else:
        layers = warp_layers(drawings, shape)
    add_blends(layers, drawings)
    images = layers[:num_images]
    for chunk in chunks(num_images):
        images[chunk] = mirrored(recoloured(images[chunk], drawings.tables[chunk]), drawings.flips[chunk])
    return images.permute(0, 3, 1, 2)


def warp_layers(drawings: Drawings, shape: tuple[int, int]) -> Tensor:
    """Return uint8 (n + b, *shape, 3), all layers of drawings that are warped."""
    layers = drawings.pixels.new_empty(len(drawings.canvases), *shape, 3)
    for chunk in chunks(len(layers)):
        layers[chunk] = warped_layers(drawings.canvases[chunk], drawings.inverses[chunk], drawings.pixels, shape)
    return layers


def add_blends(layers: Tensor, drawings: Drawings) -> None:
    """Blend the second layers of images into their first ones."""
    num_images = len(drawings.flips)
    images = layers[:num_images]
    for chunk in chunks(len(drawings.blended)):
        chosen = drawings.blended[chunk]
        seconds = layers[num_images:][chunk]
        images.index_copy_(0, chosen, blend(images.index_select(0, chosen), seconds, drawings.ratios[chunk]))


def chunks(num_items: int) -> list[slice]:
    """Return slices of at most `CHUNK` items that cover all."""
    return [slice(start, min(start + CHUNK, num_items)) for start in range(0, num_items, CHUNK)]


class Taps(NamedTuple):
    """The two pixels of each part (l, parts, size) that each position on one axis of the output lies between.

    Attributes:
        first: the nearer to the beginning.
        step: from it to the second: 1, or 0 where they are the same.
        weight: of the second, in 1 / 2048.
        is_in: whether the part covers the position.
    """

    first: Tensor
    step: Tensor
    weight: Tensor
    is_in: Tensor


def taps(length: Tensor, begin: Tensor, end: Tensor, size: int) -> Taps:
    """Return the taps of an axis of `size` pixels on which parts of `length` pixels lie from `begin` to before `end`.

    Positions are rounded as OpenCV does it: calculated in double precision, kept in single.
    """
    length, begin, end = (bounds.unsqueeze(-1) for bounds in (length, begin, end))
    output = torch.arange(size, device=length.device)
    scale = length.double() / (end - begin).clamp(min=1)
    position = ((output - begin + 0.5) * scale - 0.5).float()
    before = position.floor()
    weight = ((position - before) * 2**WEIGHT_BITS).round().int()
    last = (length - 1).clamp(min=0)
    first, second = (torch.minimum((before.long() + offset).clamp(min=0), last) for offset in (0, 1))
    return Taps(first, (second - first).int(), weight, (output >= begin) & (output < end))


def part_taps(parts: Tensor, shape: tuple[int, int]) -> tuple[Taps, Taps]:
    """Return the taps of parts (l, 4, 7) on the columns and on the rows of outputs of `shape`."""
    _, width, height, left, right, top, bottom = parts.unbind(-1)
    return taps(width, left, right, shape[1]), taps(height, top, bottom, shape[0])


def scaled_layers(parts: Tensor, pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return uint8 (l, *shape, 3) of layers whose parts are resized, bilinear in whole numbers as OpenCV's resize."""
    start, width = parts[..., 0], parts[..., 1]
    x, y = part_taps(parts, shape)
    row = (start.unsqueeze(-1) + y.first * width.unsqueeze(-1)).int()
    next_row = (y.step * width.unsqueeze(-1)).int()
    index, down, right_of, weight_x, weight_y = torch.zeros(
        5, len(parts), *shape, dtype=torch.int32, device=pixels.device
    ).unbind()
    for part in range(parts.shape[1]):
        is_in = y.is_in[:, part, :, None] & x.is_in[:, part, None, :]
        index = torch.where(is_in, row[:, part, :, None] + x.first[:, part, None, :], index)
        down = torch.where(is_in, next_row[:, part, :, None], down)
        right_of = torch.where(is_in, x.step[:, part, None, :], right_of)
        weight_x = torch.where(is_in, x.weight[:, part, None, :], weight_x)
        weight_y = torch.where(is_in, y.weight[:, part, :, None], weight_y)
    weight_x, weight_y, one = weight_x.unsqueeze(-1), weight_y.unsqueeze(-1), 1 << WEIGHT_BITS

    def row_of(index: Tensor) -> Tensor:
        first, second = _looked_up(pixels, index).int(), _looked_up(pixels, index + right_of).int()
        return (first * (one - weight_x) + second * weight_x) >> 4

    upper, lower = row_of(index), row_of(index + down)
    # The shifts of OpenCV's fixed point arithmetic: each row is cut off, their sum rounded.
    return ((((upper * (one - weight_y)) >> 16) + ((lower * weight_y) >> 16) + 2) >> 2).byte()


def warped_layers(canvases: Tensor, inverses: Tensor, pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return uint8 (l, *shape, 3) of canvases that are warped, bilinear, grey outside of them."""
    start, width, height = canvases.int()[:, :, None, None].unbind(1)
    x = torch.arange(shape[1], device=pixels.device).double()
    y = torch.arange(shape[0], device=pixels.device).double()

    def moved(row: int) -> Tensor:
        of_x, of_y, shift = inverses[:, row, :, None].unbind(1)
        return (of_x * x + shift).float()[:, None, :] + (of_y * y).float()[:, :, None]

    depth = moved(2)
    divisor = torch.where(depth == 0, 0, 1 / depth)
    # Far outside is enough: whole numbers have no infinity.
    left, top = ((moved(row) * divisor).clamp(-(2**20), 2**20) for row in (0, 1))
    x0, y0 = left.floor(), top.floor()
    weights_x, weights_y = (1 - (left - x0), left - x0), (1 - (top - y0), top - y0)
    x0, y0 = x0.int(), y0.int()
    levels = torch.zeros(len(canvases), *shape, 3, device=pixels.device)
    for down in (0, 1):
        for right_of in (0, 1):
            column, row = x0 + right_of, y0 + down
            is_in = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = torch.where(is_in, start + row * width + column, 0)
            levels += _looked_up(pixels, index) * (weights_x[right_of] * weights_y[down]).unsqueeze(-1)
    return levels.round_().byte()


def blend(first: Tensor, second: Tensor, ratios: Tensor) -> Tensor:
    """Return `ratios` (n,) of the first images plus the rest of the second, as `colours.blend_into`."""
    of_first = ratios[:, None, None, None]
    return (first * of_first + second * (1 - of_first) + CUT_OFF).round().clamp(0, 255).byte()


def mirrored(images: Tensor, flips: Tensor) -> Tensor:
    """Return images (n, height, width, 3), those mirrored up-down and left-right that `flips` (n, 2) names."""
    for axis in (0, 1):
        images = torch.where(flips[:, axis, None, None, None], images.flip(1 + axis), images)
    return images


def recoloured(images: Tensor, tables: Tensor) -> Tensor:
    """Return BGR images (n, height, width, 3) as RGB, with hue, saturation and value changed by `tables`, if any.

    In the whole numbers of OpenCV's conversions: hue in [0, 180), the others in [0, 255].
    """
    if not len(tables):
        return images.flip(-1)
    blue, green, red = images.int().unbind(-1)
    value = torch.maximum(torch.maximum(blue, green), red)
    chroma = value - torch.minimum(torch.minimum(blue, green), red)
    sector = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    )
    of_chroma, of_value, shares = colour_tables(images.device)
    hue = _scaled(sector * _looked_up(of_chroma, chroma))
    hue = hue + 180 * (hue < 0)
    saturation = _scaled(chroma * _looked_up(of_value, value))
    hue, saturation, value = (
        tables[:, :, channel].gather(1, levels.flatten(1).long()).view(levels.shape)
        for channel, levels in enumerate((hue, saturation, value))
    )
    of_channels = _looked_up(shares, hue.int() * 256 + saturation)
    return ((value.float() * UNIT).unsqueeze(-1) * of_channels * 255).byte()


@functools.cache
def colour_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tables of OpenCV's conversions between colours, calculated once for a device.

    Returns:
        int32 (256,), for hue 30 / chroma and for saturation 255 / value, in 1 / 4096; and float32 (180 x 256, 3), the
        shares of the value that red, green and blue have at each hue and saturation.
    """
    levels = np.arange(1, 256)
    of_chroma, of_value = (
        np.concatenate([[0], np.rint((unit << TABLE_BITS) / levels)]).astype(np.int32) for unit in (30, 255)
    )
    hue = np.arange(180, dtype=np.float32) * np.float32(6 / 180)
    fraction = (hue - np.trunc(hue))[:, None]
    saturation = np.arange(256, dtype=np.float32) * np.float32(UNIT)
    # Products are exact in double precision, and rounded once with the difference, as processors do it in one step.
    whole = np.ones((180, 256))
    falling, rising = (1 - saturation.astype(np.float64) * part for part in (fraction, np.float32(1) - fraction))
    least = np.broadcast_to((np.float32(1) - saturation).astype(np.float64), whole.shape)
    kinds = np.stack([whole, least, falling, rising], axis=-1)
    shares = np.take_along_axis(kinds, np.array(SECTORS)[np.trunc(hue).astype(int)][:, None, :], axis=-1)
    shares = shares.astype(np.float32).reshape(-1, 3)
    return tuple(torch.from_numpy(table).to(device) for table in (of_chroma, of_value, shares))  # type: ignore[return-value]


def _looked_up(table: Tensor, levels: Tensor) -> Tensor:
    return table.index_select(0, levels.flatten()).view(*levels.shape, *table.shape[1:])


def _scaled(product: Tensor) -> Tensor:
    return (product + (1 << (TABLE_BITS - 1))) >> TABLE_BITS
