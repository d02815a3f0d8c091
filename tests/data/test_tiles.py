"""Tiles drawn into an output: as a canvas that is warped, within stated tolerances, and with boxes on their objects."""

import functools

import cv2
import numpy as np
import pytest
from canvas_samples import CanvasSamples
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import TRIANGLE, bounds_of_white, index_of, object_on_black, outlines_of

from hpc_yolo.data import augment
from hpc_yolo.data.augment import Warp
from hpc_yolo.data.labels import NO_LABELS
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.tiles import Tile, draw_layer, lay_out, lay_tiles, span
from hpc_yolo.spec.recipe import Hyperparameters

S = 128
SHAPES = [(96, 128), (128, 96), (64, 128), (128, 128), (40, 128), (128, 50)]
QUICK = settings(deadline=None, database=None, derandomize=True)


class Images:
    """An image source of arrays, which keeps the images that it is asked for in `asked`."""

    def __init__(self, arrays):
        self.arrays, self.asked = arrays, []

    def read(self, index):
        self.asked.append(index)
        return self.arrays[index]


def smooth_images():
    """Return (index, source) of images that change by a few levels from pixel to pixel, as most of a photograph."""
    random = np.random.default_rng(0)
    arrays, labels = [], []
    for height, width in SHAPES:
        coarse = random.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
        arrays.append(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
        labels.append([[number, *random.uniform(0.3, 0.7, 2), *random.uniform(0.1, 0.5, 2)] for number in range(3)])
    return index_of([""] * len(SHAPES), SHAPES, labels), Images(arrays)


SCALED = {
    "default recipe": Hyperparameters(),
    "large scales": Hyperparameters(scale=0.9, translate=0.3),
    "no mosaic": Hyperparameters(mosaic=0, scale=0.5, translate=0.2),
    "mirrored": Hyperparameters(flipud=0.5, fliplr=0.5, mosaic=0.5),
    "neither scaled nor moved": Hyperparameters(scale=0, translate=0, mosaic=0),
}
WARPED = {
    "rotated": Hyperparameters(degrees=10, mosaic=0.7),
    "sheared": Hyperparameters(shear=3, flipud=0.5),
    "perspective": Hyperparameters(perspective=0.0005, degrees=3),
}


@pytest.mark.parametrize("hyp", SCALED.values(), ids=SCALED.keys())
def test_scaled_sample_is_that_of_the_canvas_within_a_pixel(hyp):
    """Edges of tiles are whole pixels: boxes move by less than a pixel, and levels by what the image changes over it.

    Where two images meet, or an image and the grey around it, the canvas mixes their levels.
    """
    index, source = smooth_images()
    ours, canvas = (one(index, source, imgsz=S, hyp=hyp, seed=0) for one in (TrainingSamples, CanvasSamples))
    num_objects, differences = [0, 0], []
    for epoch in range(20):
        for image in range(len(SHAPES)):
            (pixels, labels), (expected, boxes) = (one.sample(epoch, image) for one in (ours, canvas))
            num_objects = [num_objects[0] + len(labels), num_objects[1] + len(boxes)]
            if len(labels) == len(boxes):  # not where an object is at the limit of being kept
                corners = [augment.labels_to_boxes(one, S, S)[:, 1:] for one in (labels, boxes)]
                assert np.abs(corners[0] - corners[1]).max(initial=0) < 1
            differences.append(np.abs(pixels.astype(int) - expected))
    assert num_objects[0] == pytest.approx(num_objects[1], rel=0.01)
    assert np.mean(differences) < 2.5
    assert np.percentile(differences, 90) <= 6


@pytest.mark.parametrize("hyp", WARPED.values(), ids=WARPED.keys())
def test_warped_sample_is_that_of_the_canvas(hyp):
    index, source = smooth_images()
    ours, canvas = (one(index, source, imgsz=S, hyp=hyp, seed=0) for one in (TrainingSamples, CanvasSamples))
    for epoch in range(10):
        for image in range(len(SHAPES)):
            (pixels, labels), (expected, boxes) = (one.sample(epoch, image) for one in (ours, canvas))
            assert (pixels == expected).all()
            assert labels == pytest.approx(boxes, abs=1e-5)


@pytest.mark.parametrize("scale", [0.1, 0.5, 0.77, 1.0, 1.31, 1.9])
@pytest.mark.parametrize("shift", [0.4, 0.5, 0.57])
def test_boxes_of_scaled_tiles_end_where_their_objects_do(scale, shift):
    """Half of a pixel of the output: an edge of an object is grey there."""
    matrix = augment.warp_matrix(Warp(scale=scale, translate_x=shift, translate_y=1 - shift), (2 * S, 2 * S), (S, S))
    for position in range(4):
        pixels, labels = object_on_black(S, S, (20, 30, 110, 100))
        target, source = augment.mosaic_tile(position, (S, S), (S, S), S)
        read = functools.partial(np.asarray, pixels)
        tile = Tile(read, target, source, (S, S), labels, Outlines.none(1))
        out = np.empty((S, S, 3), dtype=np.uint8)
        layer, boxes, _ = lay_tiles([tile], matrix, (2 * S, 2 * S), (S, S))
        draw_layer(layer, out)
        kept = augment.warp_boxes(boxes, matrix, scale, (S, S))
        if len(kept):
            assert kept[0, 1:] == pytest.approx(bounds_of_white(out), abs=0.51 + 0.25 * scale)


@pytest.mark.parametrize("degrees", [0.0, 5.0], ids=["scaled", "warped"])
def test_images_that_the_output_does_not_show_are_not_read(degrees):
    """At twice the size the middle of the canvas is shown, and the centre of this mosaic is below it, on the right."""
    _, source = smooth_images()
    matrix = augment.warp_matrix(Warp(scale=2, angle=degrees), (2 * S, 2 * S), (S, S))
    tiles = []
    for position in range(4):
        target, part = augment.mosaic_tile(position, (S, S), (190, 190), S)
        read = functools.partial(source.read, 3 + position)
        tiles.append(Tile(read, target, part, (S, S), NO_LABELS, Outlines.none(0)))
    layer, *_ = lay_tiles(tiles, matrix, (2 * S, 2 * S), (S, S))
    draw_layer(layer, np.empty((S, S, 3), dtype=np.uint8))
    assert source.asked == [3]


@QUICK
@given(
    centre=st.integers(S // 2, S * 3 // 2),
    sides=st.tuples(st.integers(1, S), st.integers(1, S)),
    scale=st.floats(0.02, 1.98),
    shift=st.floats(-300, 300),
)
def test_tiles_meet_in_whole_pixels_and_stay_within_a_pixel_of_the_canvas(centre, sides, scale, shift):
    (left, a), (right, b) = ((tile[0][::2], tile[1][::2]) for tile in tiles_on_one_axis(sides, centre))
    first, second = span(left, a, scale, shift, S), span(right, b, scale, shift, S)
    for one, target, source in ((first, left, a), (second, right, b)):
        assert 0 <= one.first <= one.last <= S
        if one.first == one.last:
            continue
        assert source[0] <= one.begin < one.end <= source[1]
        for out, position in ((one.first, one.begin), (one.last, one.end)):
            on_canvas = target[0] + position - source[0]
            assert abs(scale * on_canvas + shift - out) <= 0.5 + max(scale - 1, 0) / 2 + 1e-6
            assert scale * (position * one.scale + one.shift) + shift == pytest.approx(out, abs=1e-6)
    if 0 < first.last < S and second.last:
        assert first.last == second.first


def tiles_on_one_axis(sides, centre):
    return [augment.mosaic_tile(position, (side, side), (centre, centre), S) for position, side in enumerate(sides)]


@pytest.mark.parametrize("centre", [(128, 128), (64, 190), (191, 64)])
def test_objects_of_a_mosaic_lie_in_their_boxes(centre):
    sizes_wh = (128, 96), (96, 128), (128, 64), (128, 128)
    canvas, boxes, _ = laid_out(
        [object_on_black(width, height, (30, 20, 80, 50)) for width, height in sizes_wh], centre
    )
    assert canvas.shape == (256, 256, 3)
    remaining = canvas.copy()
    for left, top, right, bottom in boxes[:, 1:].round().astype(int):
        assert (canvas[top:bottom, left:right] == 255).all()
        remaining[top:bottom, left:right] = 0
    assert not (remaining == 255).any(), "an object without a box"


@pytest.mark.parametrize("centre", [(128, 128), (70, 180), (185, 66)])
def test_outlines_of_a_mosaic_lie_on_their_objects_and_end_at_the_canvas(centre):
    pixels = np.zeros((S, S, 3), dtype=np.uint8)
    cv2.fillPoly(pixels, [(TRIANGLE * S).astype(np.int32)], (255, 255, 255))
    (left, top), (right, bottom) = TRIANGLE.min(axis=0), TRIANGLE.max(axis=0)
    labels = np.array([[0, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]], dtype=np.float32)
    canvas, boxes, outlines = laid_out([(pixels, labels)] * 4, centre, outlines_of(TRIANGLE))
    assert outlines.counts.tolist() == [3] * 4
    drawn = np.zeros((2 * S, 2 * S), dtype=np.uint8)
    for index, box in enumerate(boxes):
        polygon = outlines.polygon(index)
        assert [*polygon.min(axis=0), *polygon.max(axis=0)] == pytest.approx(box[1:], abs=1e-3)
        if (polygon > 0).all() and (polygon < 2 * S).all():
            cv2.fillPoly(drawn, [polygon.astype(np.int32)], 255)
    assert (canvas[..., 0][drawn > 0] == 255).mean() > 0.98, "the edge may differ by a pixel"


def laid_out(images, centre, outlines=None):
    """Return the canvas, boxes and outlines of a mosaic of four images (pixels, labels)."""
    tiles = []
    for position, (pixels, labels) in enumerate(images):
        height, width = pixels.shape[:2]
        target, source = augment.mosaic_tile(position, (width, height), centre, S)
        read = functools.partial(np.asarray, pixels)
        tiles.append(Tile(read, target, source, (width, height), labels, outlines or Outlines.none(len(labels))))
    return lay_out(tiles, (2 * S, 2 * S))
