"""Drawn glyphs: tight boxes of the stated size, forms that differ also in a mirror, and contrast to the texture."""

import itertools

import cv2
import numpy as np
import pytest

from hpc_yolo.data import drawn_glyphs
from hpc_yolo.data.drawn_glyphs import CLASSES, MARGIN_PIXELS, MIN_CONTRAST, SIDES_PIXELS

SIZE = (200, 160)


def generators(count):
    return (np.random.default_rng(seed) for seed in range(count))


@pytest.mark.parametrize("glyph", CLASSES)
def test_glyph_touches_all_sides_of_its_box(glyph):
    for random in generators(10):
        stencil = drawn_glyphs._scaled(random, drawn_glyphs._stencil(random, glyph), 100)
        ys, xs = np.nonzero(stencil > 63)  # a side may be covered in part
        assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == pytest.approx([0, 0, *stencil.shape[::-1]], abs=1)
        assert 0.1 < (stencil > 127).mean() < 0.9


def test_forms_of_classes_differ_also_in_a_mirror():
    """As masks of 16 x 16 pixels: two drawings of a class in other fonts are nearer than those of two classes."""

    def mask(glyph, seed):
        stencil = drawn_glyphs._stencil(np.random.default_rng(seed), glyph)
        return cv2.resize(stencil, (16, 16), interpolation=cv2.INTER_AREA).astype(float) / 255

    for first, second in itertools.combinations(CLASSES, 2):
        for other in (mask(second, 1), mask(second, 1)[:, ::-1]):
            assert np.abs(mask(first, 1) - other).mean() > 0.15, (first, second)


def test_boxes_are_inside_apart_and_of_all_sizes():
    sides = []
    for random in generators(60):
        pixels, boxes = drawn_glyphs.draw_image(random, SIZE)
        assert (pixels.shape, pixels.dtype) == ((160, 200, 3), np.uint8)
        assert 1 <= len(boxes) <= drawn_glyphs.MAX_GLYPHS
        for _, left, top, right, bottom in boxes:
            assert 0 <= left < right <= 200 and 0 <= top < bottom <= 160
            sides.append(max(right - left, bottom - top))
        for first, second in itertools.combinations(boxes, 2):
            gaps = (
                max(first[1], second[1]) - min(first[3], second[3]),
                max(first[2], second[2]) - min(first[4], second[4]),
            )
            assert max(gaps) >= MARGIN_PIXELS
    assert SIDES_PIXELS[0] <= min(sides) < 10
    assert 36 < max(sides) <= SIDES_PIXELS[1]
    assert np.median(sides) < 22


def test_glyph_has_contrast_and_background_has_texture():
    for random in generators(20):
        texture = drawn_glyphs._texture(random, 60, 60)
        assert texture.std() > 5
        stencil = drawn_glyphs._scaled(random, drawn_glyphs._stencil(random, "T"), 40)
        pixels = texture[: stencil.shape[0], : stencil.shape[1]].copy()
        before = pixels.mean()
        drawn_glyphs._print(random, pixels, stencil)
        inked = pixels[stencil > 230]
        assert len(inked) == 0 or abs(inked.mean() - before) > MIN_CONTRAST - 25


def test_image_may_be_as_small_as_the_smallest_glyph():
    for random in generators(10):
        pixels, boxes = drawn_glyphs.draw_image(random, (8, 9))
        assert pixels.shape == (9, 8, 3) and len(boxes) == 1
