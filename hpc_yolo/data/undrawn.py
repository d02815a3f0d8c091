"""Training batches whose images are drawn on the device of the training (`train.augment_device: gpu`).

Loader workers read images, copy those parts of them that a sample shows, and add the drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hpc_yolo.data.augment import Matrix, hsv_tables
from hpc_yolo.data.batch import TrainingBatch
from hpc_yolo.data.batch_memory import batch_memory
from hpc_yolo.data.batched_augment import COLUMNS, MAX_PARTS, Drawings
from hpc_yolo.data.drawing import Drawing
from hpc_yolo.data.images import GREY, Pixels
from hpc_yolo.data.kernel_drawing import draw_images
from hpc_yolo.data.labels import NO_LABELS
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.tiles import Layer, Part, Span, Tile, draw_layer, plane_of
from hpc_yolo.spec.recipe import Hyperparameters

ALIGNED_BYTES = 64
REACHED = 2
SIZES = 8  # in which memory for pixels grows, as fractions of that of the images, so that a device sees few sizes
TABLE_BYTES = 4096  # of an image: its tables, parts and all else but pixels

Form = tuple[torch.dtype, tuple[int, ...]]  # of an array: the type and shape
DTYPES = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.bool_): torch.bool,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}


@dataclass(frozen=True)
class UndrawnBatch:
    """This rank's shard of a global batch, before its images are drawn.

    Attributes:
        shape: height and width of the images.
        content: uint8 (bytes,), the arrays of its `Drawings`, one after the other: one copy brings all to a device.
        forms: of these arrays.
        targets: as in `TrainingBatch`.
        replaced: as in `TrainingBatch`.
    """

    shape: tuple[int, int]
    content: torch.Tensor
    forms: tuple[Form, ...]
    targets: torch.Tensor
    replaced: tuple[int, ...] = ()

    def pin_memory(self) -> UndrawnBatch:
        """Return the batch in pinned memory; torch's loader calls this, so that the copy to a GPU can overlap."""
        return replace(self, content=self.content.pin_memory(), targets=self.targets.pin_memory())

    def images_on(self, device: torch.device) -> torch.Tensor:
        """Return the images of the batch on `device`, drawn there; see `TrainingBatch.images_on`."""
        content = self.content.to(device, non_blocking=True)
        return draw_images(Drawings(*arrays_in(content, self.forms)), self.shape)


AnyTrainingBatch = TrainingBatch | UndrawnBatch


class _Row(NamedTuple):
    """Rows of a layer in the arrays of `Drawings`."""

    parts: npt.NDArray[np.int64]
    canvas: tuple[int, int, int]
    inverse: Matrix


class Collector:
    """Collects the drawings of a batch with the pixels that they need, in memory that is used again for every batch."""

    def __init__(self, hyp: Hyperparameters) -> None:
        self._is_warped = hyp.warps
        self._pixels = np.array([GREY], dtype=np.uint8)
        self._drawings: list[Drawing] = []
        self._rows: list[list[_Row]] = []
        self._end = 1  # of the pixels

    def add(self, drawing: Drawing) -> None:
        """Add a drawing, and copy its pixels.

        Nothing has changed after an error of the images.
        """
        end, rows = self._end, []
        for layer in drawing.layers:
            row, end = self._row(layer, drawing.shape, end)
            rows.append(row)
        self._end = end
        self._drawings.append(drawing)
        self._rows.append(rows)

    def take(self) -> tuple[torch.Tensor, tuple[Form, ...]]:
        """Return content and forms of an `UndrawnBatch` with all drawings since the last call; all of one shape."""
        drawings = self._drawings
        rows = [of_image[0] for of_image in self._rows]
        rows += [row for of_image in self._rows for row in of_image[1:]]
        step = max(len(drawings) * prod(drawings[0].shape) // SIZES, 1)
        arrays = [*_parameters(drawings), *_joined(rows, is_warped=self._is_warped), self._pixels[: self._end]]
        forms = [(DTYPES[array.dtype], array.shape) for array in arrays]
        forms[-1] = torch.uint8, (-(-self._end // step) * step, 3)
        content = batch_memory(starts_of(forms)[-1])
        for array, place in zip(arrays, arrays_in(content, forms), strict=True):
            place.numpy()[: len(array)] = array
        self._drawings, self._rows, self._end = [], [], 1
        return content, tuple(forms)

    def _row(self, layer: Layer, shape: tuple[int, int], end: int) -> tuple[_Row, int]:
        """Copy the pixels of a layer behind `end`; return where they are, and their end."""
        row = _Row(np.zeros((MAX_PARTS, COLUMNS), dtype=np.int64), (0, 0, 0), np.eye(3))
        if self._is_warped:
            canvas, inverse = _canvas(layer, shape)
            height, width = canvas.shape[:2]
            return row._replace(canvas=(end, width, height), inverse=inverse), self._put(canvas, end)
        if layer.matrix is not None:  # a scale of 0
            layer = _drawn(layer, shape)
        for number, part in enumerate(layer.parts):
            height, width = part.size
            row.parts[number] = end, width, height, part.x.first, part.x.last, part.y.first, part.y.last
            end = self._put(part.pixels(), end)
        return row, end

    def _put(self, pixels: Pixels, start: int) -> int:
        """Copy pixels (height, width, 3) to `start`; return their end."""
        end = start + prod(pixels.shape[:2])
        if end > len(self._pixels):
            larger = np.empty((2 * end, 3), dtype=np.uint8)
            larger[:start] = self._pixels[:start]
            self._pixels = larger
        self._pixels[start:end].reshape(pixels.shape)[:] = pixels
        return end


def _drawn(layer: Layer, shape: tuple[int, int]) -> Layer:
    """Return a layer that is drawn here as one part over all of the output."""
    pixels = np.empty((*shape, 3), dtype=np.uint8)
    draw_layer(layer, pixels)
    height, width = shape
    tile = Tile(
        lambda: pixels, (0, 0, width, height), (0, 0, width, height), (width, height), NO_LABELS, Outlines.none(0)
    )
    x, y = Span(0, width, 0, width, 1, 0), Span(0, height, 0, height, 1, 0)
    return Layer((Part(tile, x, y),), (width, height), None)


def _canvas(layer: Layer, shape: tuple[int, int]) -> tuple[Pixels, Matrix]:
    """Return the part of the canvas that an output of `shape` shows, and the matrix from the output to it."""
    matrix = layer.matrix
    if matrix is None or np.linalg.det(matrix) == 0:
        return _drawn(layer, shape).parts[0].pixels(), np.eye(3)
    canvas, inverse = plane_of(layer), np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    left, top, right, bottom = _seen(inverse, (shape[1], shape[0]), layer.plane_wh)
    shift = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]], dtype=np.float64)
    return canvas[top:bottom, left:right], shift @ inverse


def _seen(inverse: Matrix, output_wh: tuple[int, int], canvas_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return xyxy of what an output shows of a canvas: all of it where something is behind the viewer."""
    corners = np.array([(x, y, 1) for x in (0, output_wh[0]) for y in (0, output_wh[1])]) @ inverse.T
    if (corners[:, 2] <= 0).any():
        return 0, 0, *canvas_wh
    points = corners[:, :2] / corners[:, 2:]
    # Pixels around it, which interpolation reaches.
    first = (np.floor(points.min(axis=0)) - REACHED).clip(0, canvas_wh).astype(int).tolist()
    last = (np.ceil(points.max(axis=0)) + REACHED).clip(first, canvas_wh).astype(int).tolist()
    return first[0], first[1], last[0], last[1]


def _parameters(drawings: Sequence[Drawing]) -> list[npt.NDArray[Any]]:
    """Return tables, flips, blended and ratios of `Drawings`."""
    tables = [hsv_tables(one.gains) for one in drawings if one.gains is not None]
    seconds = [(image, one.second[1]) for image, one in enumerate(drawings) if one.second is not None]
    return [
        np.array(tables, dtype=np.uint8).reshape(-1, 256, 3),
        np.array([(one.up_down, one.left_right) for one in drawings], dtype=np.bool_),
        np.array([image for image, _ in seconds], dtype=np.int64),
        np.array([ratio for _, ratio in seconds], dtype=np.float32),
    ]


def _joined(rows: Sequence[_Row], *, is_warped: bool) -> list[npt.NDArray[Any]]:
    """Return parts, canvases and inverses of `Drawings`, of which those that are not used are empty."""
    scaled, warped = (() if is_warped else rows), (rows if is_warped else ())
    return [
        np.array([row.parts for row in scaled], dtype=np.int64).reshape(-1, MAX_PARTS, COLUMNS),
        np.array([row.canvas for row in warped], dtype=np.int64).reshape(-1, 3),
        np.array([row.inverse for row in warped], dtype=np.float64).reshape(-1, 3, 3),
    ]


def starts_of(forms: Sequence[Form]) -> list[int]:
    """Return the first byte of each array in the content of a batch, and the end of the last."""
    starts = [0]
    for dtype, shape in forms:
        starts.append(starts[-1] + -(-prod(shape) * dtype.itemsize // ALIGNED_BYTES) * ALIGNED_BYTES)
    return starts


def arrays_in(content: torch.Tensor, forms: Sequence[Form]) -> list[torch.Tensor]:
    """Return the arrays in the content of a batch, as views."""
    return [
        content[start : start + prod(shape) * dtype.itemsize].view(dtype).view(shape)
        for start, (dtype, shape) in zip(starts_of(forms), forms, strict=False)
    ]


def most_bytes(shape: tuple[int, int], imgsz: int, hyp: Hyperparameters) -> int:
    """Return the most bytes of an image of `shape` in the content of a batch: with whole images, or whole canvases."""
    pixels = max(prod(shape), imgsz * imgsz)
    if hyp.mosaic:
        pixels = max(pixels, 4 * imgsz * imgsz * (2 if hyp.mixup else 1))
    return 3 * (pixels + prod(shape) // SIZES + 1) + TABLE_BYTES
