"""Images on a canvas, drawn into an output in one step.

A canvas is where a mosaic or a padded image is laid out; a matrix moves it into the output. Where that only scales and
shifts, each image is resized straight into its part of the output, and the canvas is never made. With a rotation, shear
or perspective the canvas is made, without the images that the output does not show, and warped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.augment import Boxes, Matrix, is_scale_and_shift, warp_image
from hpc_yolo.data.images import GREY, Pixels
from hpc_yolo.data.labels import Labels
from hpc_yolo.data.polygons import Outlines


@dataclass(frozen=True)
class Tile:
    """A part of an image on a canvas.

    Attributes:
        read: return the pixels of the image; called only if the output shows some of them.
        target: xyxy on the canvas, where the part `source`, xyxy in pixels of the image, is laid out.
        wh: width and height of the image.
        labels: of its objects.
        outlines: of the same objects, in [0, 1].
    """

    read: Callable[[], Pixels]
    target: tuple[float, float, float, float]
    source: tuple[int, int, int, int]
    wh: tuple[int, int]
    labels: Labels
    outlines: Outlines


class Span(NamedTuple):
    """One axis of a tile: the pixels from `first` to before `last` of the output show `begin` to before `end` of it.

    A position in the image is at position * `scale` + `shift` on the canvas.
    """

    first: int
    last: int
    begin: int
    end: int
    scale: float
    shift: float


def span(target: tuple[float, float], source: tuple[int, int], scale: float, shift: float, size: int) -> Span:
    """Return the span of a tile on one axis of an output of `size` pixels, which is at canvas * `scale` + `shift`.

    All bounds are whole pixels, so that tiles which meet on the canvas meet in the output. `Span.scale` and
    `Span.shift` are those of these bounds, so that boxes stay on their objects: within a pixel of the output of where
    the canvas has them.
    """
    per_pixel = (source[1] - source[0]) / (target[1] - target[0])
    first, last = (nearest_edge(scale * edge + shift) for edge in target)
    begin, end = source
    if first < 0:
        first, begin = 0, min(begin + nearest_edge((-shift / scale - target[0]) * per_pixel), end - 1)
    if last > size:
        last, end = size, max(end - nearest_edge((target[1] - (size - shift) / scale) * per_pixel), begin + 1)
    if last <= first:  # not in the output
        return Span(0, 0, 0, 0, 1 / per_pixel, target[0] - source[0] / per_pixel)
    canvas_scale = (last - first) / (end - begin) / scale
    return Span(first, last, begin, end, canvas_scale, (first - shift) / scale - begin * canvas_scale)


def nearest_edge(position: float) -> int:
    """Return the edge between pixels that is nearest to `position`, of two the lower one, as `letterbox` has it."""
    return math.ceil(position - 0.5)


class Part(NamedTuple):
    """A part of a tile on a plane: the output, or a canvas that is warped into it."""

    tile: Tile
    x: Span
    y: Span

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the image."""
        return self.y.end - self.y.begin, self.x.end - self.x.begin

    def pixels(self) -> Pixels:
        """Return the pixels of the image that are shown, as a view."""
        return self.tile.read()[self.y.begin : self.y.end, self.x.begin : self.x.end]


class Layer(NamedTuple):
    """What an output shows of images, before its colours change.

    Attributes:
        parts: those that are shown; grey is where there is none.
        plane_wh: width and height of their plane.
        matrix: (3, 3) from that plane to the output; None where it is the output.
    """

    parts: tuple[Part, ...]
    plane_wh: tuple[int, int]
    matrix: Matrix | None


def lay_tiles(
    tiles: Sequence[Tile], matrix: Matrix, canvas_wh: tuple[int, int], output_wh: tuple[int, int]
) -> tuple[Layer, Boxes, Outlines]:
    """Return the layer of `tiles`, with boxes and outlines of all in pixels of the canvas, cut at its edges.

    Args:
        matrix: (3, 3) from the canvas to the output.
    """
    if is_scale_and_shift(matrix):
        parts = _parts(tiles, matrix, output_wh)
        layer = Layer(tuple(part for part in parts if _has_area(part)), output_wh, None)
    else:
        parts = _parts(tiles, np.eye(3), canvas_wh)
        shown = (part for part in parts if _has_area(part) and _is_shown(part.tile.target, matrix, output_wh))
        layer = Layer(tuple(shown), canvas_wh, matrix)
    return layer, *_on_canvas(parts, canvas_wh)


def draw_layer(layer: Layer, out: Pixels) -> None:
    """Draw a layer into `out` (height, width, BGR)."""
    if layer.matrix is None:
        draw_parts(layer.parts, out)
    else:
        warp_image(plane_of(layer), layer.matrix, out)


def plane_of(layer: Layer) -> Pixels:
    """Return the plane of a layer (height, width, BGR) with its parts."""
    plane = np.empty((layer.plane_wh[1], layer.plane_wh[0], 3), dtype=np.uint8)
    draw_parts(layer.parts, plane)
    return plane


def draw_parts(parts: Iterable[Part], plane: Pixels) -> None:
    """Resize each part into its place on `plane`, grey where there is none."""
    plane.fill(GREY[0])
    for part in parts:
        place = plane[part.y.first : part.y.last, part.x.first : part.x.last]
        cv2.resize(part.pixels(), (place.shape[1], place.shape[0]), dst=place, interpolation=cv2.INTER_LINEAR)


def lay_out(tiles: Sequence[Tile], canvas_wh: tuple[int, int]) -> tuple[Pixels, Boxes, Outlines]:
    """Return the canvas (height, width, BGR) with all tiles, with their boxes and outlines cut at its edges."""
    layer, boxes, outlines = lay_tiles(tiles, np.eye(3), canvas_wh, canvas_wh)
    return plane_of(layer), boxes, outlines


def _parts(tiles: Sequence[Tile], matrix: Matrix, plane_wh: tuple[int, int]) -> list[Part]:
    """Return the parts of tiles on a plane that is the canvas scaled and shifted by `matrix`."""
    parts = []
    for tile in tiles:
        (left, top, right, bottom), (a, b, c, d) = tile.target, tile.source
        x = span((left, right), (a, c), float(matrix[0, 0]), float(matrix[0, 2]), plane_wh[0])
        y = span((top, bottom), (b, d), float(matrix[1, 1]), float(matrix[1, 2]), plane_wh[1])
        parts.append(Part(tile, x, y))
    return parts


def _has_area(part: Part) -> bool:
    return part.x.last > part.x.first and part.y.last > part.y.first


def _on_canvas(parts: Sequence[Part], canvas_wh: tuple[int, int]) -> tuple[Boxes, Outlines]:
    tiles = [part.tile for part in parts]
    # From fractions of an image to the canvas: its width and height there, and its left and upper edge.
    moves = [(tile.wh[0] * x.scale, tile.wh[1] * y.scale, x.shift, y.shift) for tile, x, y in parts]
    labels = np.concatenate([tile.labels for tile in tiles])
    of_labels = np.repeat(np.array(moves), [len(tile.labels) for tile in tiles], axis=0)
    centres = labels[:, 1:3] * of_labels[:, :2] + of_labels[:, 2:]
    halves = labels[:, 3:] * of_labels[:, :2] / 2
    boxes = np.concatenate([labels[:, :1], centres - halves, centres + halves], axis=1).astype(np.float32)
    np.clip(boxes[:, 1:], 0, np.array(2 * canvas_wh, dtype=np.float32), out=boxes[:, 1:])
    if all(tile.outlines.is_empty for tile in tiles):
        return boxes, Outlines.none(len(boxes))
    outlines = [tile.outlines.scaled(*move) for tile, move in zip(tiles, moves, strict=True)]
    return boxes, Outlines.joined(outlines).clipped(*canvas_wh)


def _is_shown(target: tuple[float, float, float, float], matrix: Matrix, output_wh: tuple[int, int]) -> bool:
    """Return whether the output may show some of `target`: its hull there, where nothing is behind the viewer."""
    left, top, right, bottom = target
    # A pixel around it, which interpolation reaches.
    corners = (
        np.array([(x, y, 1) for x in (left - 1, right + 1) for y in (top - 1, bottom + 1)], dtype=np.float64) @ matrix.T
    )
    if (corners[:, 2] <= 0).any():
        return True
    points: npt.NDArray[np.float64] = corners[:, :2] / corners[:, 2:]
    return bool((points.max(axis=0) >= 0).all() and (points.min(axis=0) <= output_wh).all())
