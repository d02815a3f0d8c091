"""Drawings: all that decides the pixels of a training image. `paint` makes them here, `batched_augment` on a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpc_yolo.data import colours
from hpc_yolo.data.colours import Scratch
from hpc_yolo.data.images import Pixels
from hpc_yolo.data.tiles import Layer, draw_layer


@dataclass(frozen=True)
class Drawing:
    """How to make one training image.

    Attributes:
        shape: its height and width.
        first: what it shows.
        second: what is blended with that, and `ratio`, the fraction of the first; None without a blend.
        gains: factors (3,) of hue, saturation and value; None where colours do not change.
        up_down: mirrored so, at last.
        left_right: mirrored so, at last.
    """

    shape: tuple[int, int]
    first: Layer
    second: tuple[Layer, float] | None
    gains: npt.NDArray[np.float64] | None
    up_down: bool
    left_right: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        """One layer, or the two that are blended."""
        return (self.first,) if self.second is None else (self.first, self.second[0])


def paint(drawing: Drawing, scratch: Scratch, out: Pixels | None = None) -> Pixels:
    """Return the pixels of a drawing, RGB (height, width, 3).

    Args:
        scratch: arrays 0 and 1 of it are overwritten.
        out: array for the result; by default a new one.
    """
    pixels = scratch(0, *drawing.shape)
    draw_layer(drawing.first, pixels)
    if drawing.second is not None:
        layer, ratio = drawing.second
        second = scratch(1, *drawing.shape)
        draw_layer(layer, second)
        colours.blend_into(pixels, second, ratio)
    out = np.empty_like(pixels) if out is None else out
    colours.write_rgb(
        pixels,
        out,
        scratch(1, *drawing.shape),
        gains=drawing.gains,
        up_down=drawing.up_down,
        left_right=drawing.left_right,
    )
    return out
