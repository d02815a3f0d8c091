"""Drawn shapes: tight boxes, forms that differ, and colours that differ from the background."""

import numpy as np
import pytest

from hpc_yolo.data import drawn_shapes
from hpc_yolo.data.drawn_shapes import CLASSES

COLOUR = (255, 0, 255)


@pytest.mark.parametrize("class_index", range(len(CLASSES)), ids=CLASSES)
@pytest.mark.parametrize("side", [28, 61, 96])
def test_shape_touches_all_sides_of_its_box_and_stays_inside(class_index, side):
    pixels = np.zeros((120, 140, 3), dtype=np.uint8)
    drawn_shapes._draw_shape(pixels, class_index, 20, 10, side, COLOUR)
    ys, xs = np.nonzero(pixels[..., 0] > 127)  # smoothed edges fade out over another pixel
    bounds = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert bounds == pytest.approx([20, 10, 20 + side, 10 + side], abs=1)


def test_classes_differ_in_form():
    """Forms differ by the fraction of the box that they fill; colours alone would make the set trivial."""
    filled = []
    for class_index in range(len(CLASSES)):
        pixels = np.zeros((80, 80, 3), dtype=np.uint8)
        drawn_shapes._draw_shape(pixels, class_index, 10, 10, 60, COLOUR)
        filled.append(pixels.any(axis=2).mean())
    assert np.diff(sorted(filled)).min() > 0.03


def test_drawn_boxes_are_inside_and_overlap_little():
    for seed in range(40):
        pixels, boxes = drawn_shapes.draw_image(np.random.default_rng(seed), (320, 240))
        assert (pixels.shape, pixels.dtype) == ((240, 320, 3), np.uint8)
        assert 1 <= len(boxes) <= drawn_shapes.MAX_SHAPES
        for number, (_, left, top, right, bottom) in enumerate(boxes):
            assert 0 <= left < right <= 320 and 0 <= top < bottom <= 240
            for other in boxes[:number]:
                assert drawn_shapes._overlap_fraction(boxes[number], other) <= drawn_shapes.MAX_OVERLAP


def test_shapes_differ_from_their_background():
    """Every shape must be findable: its middle differs from the image's plain grey in colour."""
    for seed in range(20):
        pixels, boxes = drawn_shapes.draw_image(np.random.default_rng(seed), (320, 240))
        _, left, top, right, bottom = boxes[-1]
        middle = pixels[int(top + bottom) // 2, int(left + right) // 2].astype(int)
        assert middle.max() - middle.min() > 60
