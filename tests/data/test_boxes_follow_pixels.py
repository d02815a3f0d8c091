"""Boxes stay where their objects are: images with a white object on black are changed, and the object looked for."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_yolo.data import augment
from hpc_yolo.data.augment import Warp
from hpc_yolo.data.images import letterbox, resize_to, to_chw_rgb
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.spec.schema import Hyperparameters

IMGSZ = 128
QUICK = settings(deadline=None, database=None, derandomize=True)
SHARES = st.floats(0, 1)


def object_on_black(width: int, height: int, box_xyxy: tuple[int, int, int, int]):
    """(pixels, one row of class 3, cxcywh in shares)."""
    left, top, right, bottom = box_xyxy
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[top:bottom, left:right] = 255
    row = 3, (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
    return pixels, np.array([row], dtype=np.float32)


def bounds_of_white(pixels):
    """xyxy of what is brighter than the grey of borders and of half-covered pixels."""
    ys, xs = np.nonzero(pixels[..., 0] > 180)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.mark.parametrize(
    "warp",
    [
        Warp(),
        Warp(scale=0.5),
        Warp(scale=1.4, translate_x=0.45, translate_y=0.6),
        Warp(angle=90),
        Warp(angle=-180, scale=0.8),
        Warp(shear_x=8),
        Warp(shear_y=-8, translate_x=0.4),
        Warp(perspective_x=0.0005, perspective_y=-0.0004),
    ],
    ids=str,
)
def test_a_warped_box_is_the_hull_of_the_warped_object(warp):
    pixels, shares = object_on_black(2 * IMGSZ, 2 * IMGSZ, (104, 96, 168, 144))
    rows = augment.shares_to_pixels(shares, 2 * IMGSZ, 2 * IMGSZ)
    matrix = augment.warp_matrix(warp, (2 * IMGSZ, 2 * IMGSZ), (IMGSZ, IMGSZ))
    warped = augment.warp_image(pixels, matrix, (IMGSZ, IMGSZ), has_perspective=warp.perspective_x != 0)
    (row,) = augment.warp_boxes(rows, matrix, warp.scale, (IMGSZ, IMGSZ))
    assert row[0] == 3
    assert row[1:] == pytest.approx(bounds_of_white(warped), abs=1.6)


def test_where_nothing_comes_to_lie_is_grey():
    for has_perspective in (False, True):
        matrix = augment.warp_matrix(Warp(scale=0.25), (IMGSZ, IMGSZ), (IMGSZ, IMGSZ))
        black = np.zeros((IMGSZ, IMGSZ, 3), dtype=np.uint8)
        warped = augment.warp_image(black, matrix, (IMGSZ, IMGSZ), has_perspective=has_perspective)
        assert warped[0, 0].tolist() == [114, 114, 114]
        assert warped[IMGSZ // 2, IMGSZ // 2].tolist() == [0, 0, 0]


def test_a_box_that_leaves_the_image_goes_and_half_of_one_is_cut():
    rows = np.array([[0, 10, 10, 50, 50], [1, 100, 10, 140, 50]], dtype=np.float32)
    matrix = augment.warp_matrix(Warp(translate_x=0.5 - 30 / 128), (IMGSZ, IMGSZ), (IMGSZ, IMGSZ))
    kept = augment.warp_boxes(rows, matrix, 1.0, (IMGSZ, IMGSZ))
    assert kept == pytest.approx(np.array([[0, 0, 10, 20, 50], [1, 70, 10, 110, 50]]), abs=1e-4)
    away = augment.warp_matrix(Warp(translate_x=0.5 - 60 / 128), (IMGSZ, IMGSZ), (IMGSZ, IMGSZ))
    assert augment.warp_boxes(rows, away, 1.0, (IMGSZ, IMGSZ))[:, 0].tolist() == [1]


@pytest.mark.parametrize("function", ["warp", "shares", "pixels", "flip"])
def test_images_without_objects_pass(function):
    nothing = np.zeros((0, 5), dtype=np.float32)
    changed = {
        "warp": lambda: augment.warp_boxes(nothing, np.eye(3), 1.0, (IMGSZ, IMGSZ)),
        "shares": lambda: augment.shares_to_pixels(nothing, IMGSZ, IMGSZ),
        "pixels": lambda: augment.pixels_to_shares(nothing, IMGSZ, IMGSZ),
        "flip": lambda: augment.flip(np.zeros((2, 2, 3), np.uint8), nothing, up_down=True, left_right=True)[1],
    }[function]()
    assert (changed.shape, changed.dtype) == ((0, 5), np.float32)


@QUICK
@given(
    tile=st.integers(0, 3),
    width=st.integers(1, IMGSZ),
    height=st.integers(1, IMGSZ),
    x=st.integers(IMGSZ // 2, IMGSZ * 3 // 2 - 1),
    y=st.integers(IMGSZ // 2, IMGSZ * 3 // 2 - 1),
)
def test_any_tile_fits_its_quarter_and_touches_the_centre(tile, width, height, x, y):
    """A place and a part of unequal size would raise in the middle of a night's training."""
    (x1, y1, x2, y2), (a1, b1, a2, b2) = augment.mosaic_tile(tile, (width, height), (x, y), IMGSZ)
    assert (x2 - x1, y2 - y1) == (a2 - a1, b2 - b1)
    assert 0 <= a1 < a2 <= width and 0 <= b1 < b2 <= height
    assert 0 <= x1 < x2 <= 2 * IMGSZ and 0 <= y1 < y2 <= 2 * IMGSZ
    assert (x1 if tile % 2 else x2) == x and (y1 if tile >= 2 else y2) == y


@pytest.mark.parametrize("centre", [(128, 128), (64, 190), (191, 64)])
def test_each_object_of_a_mosaic_lies_in_its_box(centre):
    sizes_wh = (128, 96), (96, 128), (128, 64), (128, 128)
    tiles = [object_on_black(width, height, (30, 20, 80, 50)) for width, height in sizes_wh]
    tiles = [(pixels, shares, Outlines.none(1)) for pixels, shares in tiles]
    canvas, rows, _ = augment.mosaic(tiles, centre, IMGSZ)
    assert canvas.shape == (256, 256, 3)
    left_over = canvas.copy()
    for left, top, right, bottom in rows[:, 1:].round().astype(int):
        assert (canvas[top:bottom, left:right] == 255).all()
        left_over[top:bottom, left:right] = 0
    assert not (left_over == 255).any(), "an object without a box"


@QUICK
@given(width=st.integers(10, 400), height=st.integers(10, 400), side_h=st.integers(1, 6), side_w=st.integers(1, 6))
def test_a_letterbox_has_the_asked_shape_and_leads_back(width, height, side_h, side_w):
    shape = 32 * side_h, 32 * side_w
    pixels, ratio, (left, top) = letterbox(np.zeros((height, width, 3), dtype=np.uint8), shape)
    assert pixels.shape == (*shape, 3)
    assert width * ratio + 2 * left == pytest.approx(shape[1], abs=0.51)
    assert height * ratio + 2 * top == pytest.approx(shape[0], abs=0.51)


@pytest.mark.parametrize(("width", "height"), [(200, 100), (100, 200), (50, 25), (128, 128)])
def test_a_letterboxed_object_lies_in_its_box(width, height):
    pixels, shares = object_on_black(width, height, (width // 4, height // 4, width // 2, height * 3 // 4))
    framed, ratio, (left, top) = letterbox(pixels, (IMGSZ, IMGSZ))
    (row,) = augment.shares_to_pixels(shares, width * ratio, height * ratio, left, top)
    assert row[1:] == pytest.approx(bounds_of_white(framed), abs=1.1)


@pytest.mark.parametrize(("up_down", "left_right"), list(itertools.product((False, True), repeat=2)))
def test_a_mirrored_object_lies_in_its_box(up_down, left_right):
    pixels, shares = object_on_black(60, 40, (5, 10, 25, 18))
    flipped, moved = augment.flip(pixels, shares, up_down=up_down, left_right=left_right)
    (row,) = augment.shares_to_pixels(moved, 60, 40)
    assert row[1:] == pytest.approx(bounds_of_white(flipped))
    assert shares[0, 1] == np.float32(15 / 60), "labels are kept in memory for all epochs and must not be changed"


@QUICK
@given(
    boxes=st.lists(
        st.tuples(st.floats(-50, 250), st.floats(-50, 250), st.floats(0, 200), st.floats(0, 200)), max_size=5
    )
)
def test_shares_are_within_the_image_whatever_the_box(boxes):
    rows = np.array([[0, x, y, x + w, y + h] for x, y, w, h in boxes], dtype=np.float32).reshape(-1, 5)
    shares = augment.pixels_to_shares(rows, 160, 120)
    assert ((shares[:, 1:] >= 0) & (shares[:, 1:] <= 1)).all()


@QUICK
@given(angle=st.floats(-45, 45), scale=st.floats(0.1, 1.9), shift_x=st.floats(0.1, 0.9), shift_y=st.floats(0.1, 0.9))
def test_warped_boxes_end_at_the_edge_and_are_worth_keeping(angle, scale, shift_x, shift_y):
    random = np.random.default_rng(1)
    corners = random.uniform(0, 200, size=(8, 2))
    rows = np.concatenate([np.arange(8)[:, None], corners, corners + random.uniform(1, 56, (8, 2))], axis=1)
    warp = Warp(angle=angle, scale=scale, translate_x=shift_x, translate_y=shift_y)
    matrix = augment.warp_matrix(warp, (256, 256), (IMGSZ, IMGSZ))
    kept = augment.warp_boxes(rows.astype(np.float32), matrix, scale, (IMGSZ, IMGSZ))
    assert ((kept[:, 1:] >= 0) & (kept[:, 1:] <= IMGSZ)).all()
    assert (kept[:, 3:] - kept[:, 1:3] > 2).all()
    assert set(kept[:, 0]) <= set(range(8))


@pytest.mark.parametrize(
    ("width", "height", "augment_it", "method"),
    [(200, 100, True, cv2.INTER_LINEAR), (200, 100, False, cv2.INTER_AREA), (50, 100, False, cv2.INTER_LINEAR)],
    ids=["shrunk in training", "shrunk in evaluation", "enlarged"],
)
def test_a_image_is_resized_as_published(width, height, augment_it, method):
    """Longer side to the size, the other cut off to whole pixels; by area only where evaluation shrinks."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    ratio = IMGSZ / max(width, height)
    expected = cv2.resize(pixels, (int(width * ratio), int(height * ratio)), interpolation=method)
    assert (resize_to(pixels, IMGSZ, augment=augment_it) == expected).all()


def test_a_image_of_the_right_size_is_not_copied():
    pixels = np.zeros((96, IMGSZ, 3), dtype=np.uint8)
    assert resize_to(pixels, IMGSZ, augment=True) is pixels


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_batch_has_red_first(is_mirrored):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    pixels = pixels[::-1, ::-1] if is_mirrored else pixels
    turned = to_chw_rgb(pixels)
    assert turned.flags.c_contiguous
    for channel, source in enumerate((2, 1, 0)):
        assert (turned[channel] == pixels[:, :, source]).all()


def test_colours_with_gains_of_one_stay_but_for_rounding():
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 40, 3), dtype=np.uint8)
    changed = augment.change_colours(pixels, np.ones(3))
    there_and_back = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV), cv2.COLOR_HSV2BGR)
    assert (changed == there_and_back).all()


@pytest.mark.parametrize(("channel", "gain"), [(0, 1.4), (1, 0.5), (2, 1.6)])
def test_each_gain_changes_its_own_channel(channel, gain):
    gains = np.ones(3)
    gains[channel] = gain
    for number, (table, plain) in enumerate(
        zip(augment.hsv_tables(gains), augment.hsv_tables(np.ones(3)), strict=True)
    ):
        assert bool((table == plain).all()) is (number != channel)


def test_a_blend_takes_its_share_of_each():
    first, second = np.full((2, 2, 3), 200, np.uint8), np.full((2, 2, 3), 101, np.uint8)
    assert augment.mix(first, second, 0.5).ravel().tolist() == [150] * 12, "cut off, not rounded, as published"
    assert (augment.mix(first, second, 1.0) == first).all()
    assert (augment.mix(first, second, 0.0) == second).all()


@QUICK
@given(seed=st.integers(0, 2**32), limit=SHARES)
def test_without_limits_nothing_is_drawn(seed, limit):
    hyp = Hyperparameters(degrees=0, translate=0, scale=0, shear=0, perspective=0, hsv_h=0, hsv_s=0, hsv_v=0)
    assert augment.draw_warp(np.random.default_rng(seed), hyp) == Warp()
    assert augment.draw_hsv_gains(np.random.default_rng(seed), hyp).tolist() == [1, 1, 1]
    shifted = augment.draw_warp(np.random.default_rng(seed), Hyperparameters(translate=limit))
    assert abs(shifted.translate_x - 0.5) <= limit + 1e-12
