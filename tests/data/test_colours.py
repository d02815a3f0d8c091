"""Colours: changed, blended, mirrored and written as RGB in one pass."""

import itertools

import cv2
import numpy as np
import pytest
from image_sets import bounds_of_white, object_on_black

from hpc_yolo.data import augment
from hpc_yolo.data.colours import Scratch, blend_into, frame_rgb, write_rgb
from hpc_yolo.data.images import letterbox

NOISE = np.random.default_rng(0).integers(0, 256, size=(40, 60, 3), dtype=np.uint8)
# The hue of the fourth is at the limit of the fast way, and that of the last beyond it.
GAINS = [(1, 1, 1), (0.99, 1.5, 0.7), (1.015, 0.3, 1.4), (1.15, 0.0, 2.0), (1.9, 1.3, 0.6)]
FLIPS = list(itertools.product((False, True), repeat=2))


def rgb_of(pixels, **changes):
    """Return what `write_rgb` writes; the array, as part of a batch, has rows of others beside it."""
    batch = np.zeros((3, *pixels.shape), dtype=np.uint8)
    write_rgb(pixels.copy(), batch[1], np.empty_like(pixels), **changes)
    assert not batch[::2].any()
    return batch[1]


@pytest.mark.parametrize("gains", GAINS, ids=str)
@pytest.mark.parametrize(("up_down", "left_right"), FLIPS)
def test_colours_change_by_tables_and_images_are_mirrored(gains, up_down, left_right):
    """Only where a hue passes 180 may they differ from the tables, by a level."""
    hsv, flipped = cv2.cvtColor(NOISE, cv2.COLOR_BGR2HSV), np.s_[:: -1 if up_down else 1, :: -1 if left_right else 1]
    tables = augment.hsv_tables(np.array(gains))[None]
    expected = cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2BGR)[..., ::-1][flipped]
    found = rgb_of(NOISE, gains=np.array(gains), up_down=up_down, left_right=left_right)
    difference = np.abs(found.astype(int) - expected).max(axis=-1)
    assert (difference <= (hsv[..., 0] * gains[0] >= 180)[flipped]).all()


def test_tables_cut_off_levels():
    """They are made by the operation that changes images, and are the published ones but for rounding."""
    random = np.random.default_rng(0)
    gains = random.uniform((0.9, 0, 0), (2, 2, 2), size=(500, 3))
    exact = np.arange(256)[:, None] * gains[:, None, :]
    exact = np.floor(np.where([True, False, False], exact % 180, np.minimum(exact, 255)))
    found = np.stack([augment.hsv_tables(one) for one in gains]).astype(int)
    assert (found != exact).mean() < 0.0005 and set(np.unique(found - exact)) <= {-179, 0, 1}


@pytest.mark.parametrize(("up_down", "left_right"), FLIPS)
def test_unchanged_colours_are_reordered_only(up_down, left_right):
    expected = NOISE[:: -1 if up_down else 1, :: -1 if left_right else 1, ::-1]
    assert (rgb_of(NOISE, up_down=up_down, left_right=left_right) == expected).all()


@pytest.mark.parametrize(("up_down", "left_right"), FLIPS)
def test_flipped_object_lies_in_its_box(up_down, left_right):
    pixels, labels = object_on_black(60, 40, (5, 10, 25, 18))
    moved = augment.flip_labels(labels, up_down=up_down, left_right=left_right)
    (box,) = augment.labels_to_boxes(moved, 60, 40)
    assert box[1:] == pytest.approx(bounds_of_white(rgb_of(pixels, up_down=up_down, left_right=left_right)))
    assert labels[0, 1] == np.float32(15 / 60), "labels are kept in memory for all epochs and must not be changed"


@pytest.mark.parametrize("ratio", [0.0, 0.31, 0.5, 0.77, 1.0])
def test_blend_takes_its_fraction_of_each(ratio):
    """Cut off, not rounded, as published, but for fractions above 0.998 of a level."""
    first, second = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    blended = first.copy()
    blend_into(blended, second, ratio)
    exact = first * ratio + second * (1 - ratio)
    assert (np.abs(blended - np.floor(exact + 0.0021)) <= (exact % 1 > 0.9975)).all()


def test_image_is_framed_as_by_letterbox():
    for height, width, shape in ((40, 60, (64, 96)), (40, 60, (40, 60)), (40, 60, (41, 61)), (100, 60, (64, 64))):
        pixels = np.random.default_rng(1).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
        expected, ratio, padding = letterbox(pixels, shape, scaleup=False)
        out = np.zeros((*shape, 3), dtype=np.uint8)
        assert frame_rgb(pixels, out) == (ratio, padding)
        assert (out == expected[..., ::-1]).all()


def test_scratch_is_the_same_memory_for_any_size():
    scratch = Scratch()
    large, small, other = scratch(0, 40, 60), scratch(0, 20, 30), scratch(1, 20, 30)
    assert small.shape == (20, 30, 3)
    assert np.shares_memory(large, small) and not np.shares_memory(small, other)
    assert scratch(0, 50, 60).shape == (50, 60, 3)
