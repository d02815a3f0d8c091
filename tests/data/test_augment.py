"""Geometry and colour: published values, and boxes that stay on their objects.

Images with a white object on black are changed, and the object is looked for. `test_augment_statistics.py` has the
distributions of what is drawn.
"""

import cv2
import numpy as np
import pytest
from golden import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import TRIANGLE, bounds_of_white, object_on_black, outlines_of

from hpc_yolo.data import augment
from hpc_yolo.data.augment import Warp
from hpc_yolo.data.images import letterbox
from hpc_yolo.spec.recipe import Hyperparameters

IMGSZ = 128
S = IMGSZ
QUICK = settings(deadline=None, database=None, derandomize=True)


def test_warp_moves_boxes_as_published():
    golden = GOLDEN["perspective_golden"]
    warp = Warp(*golden["values"])
    output_wh = tuple(golden["dsize_wh"])
    matrix = augment.warp_matrix(warp, tuple(golden["canvas"]), output_wh)
    assert matrix[:2] == pytest.approx(np.array(golden["M_2x3"]), rel=1e-6)
    boxes = augment.warp_boxes(np.array(golden["boxes_in"], dtype=np.float32), matrix, warp.scale, output_wh)
    assert boxes == pytest.approx(np.array(golden["boxes_out"]), rel=1e-5)


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
def test_warped_box_is_the_hull_of_the_warped_object(warp):
    pixels, labels = object_on_black(2 * IMGSZ, 2 * IMGSZ, (104, 96, 168, 144))
    boxes = augment.labels_to_boxes(labels, 2 * IMGSZ, 2 * IMGSZ)
    matrix = augment.warp_matrix(warp, (2 * IMGSZ, 2 * IMGSZ), (IMGSZ, IMGSZ))
    warped = np.empty((IMGSZ, IMGSZ, 3), dtype=np.uint8)
    augment.warp_image(pixels, matrix, warped)
    (box,) = augment.warp_boxes(boxes, matrix, warp.scale, (IMGSZ, IMGSZ))
    assert box[0] == 3
    assert box[1:] == pytest.approx(bounds_of_white(warped), abs=1.6)


def test_warped_image_is_grey_where_it_is_empty():
    for perspective in (0, 1e-9):
        matrix = augment.warp_matrix(Warp(perspective, scale=0.25), (IMGSZ, IMGSZ), (IMGSZ, IMGSZ))
        black, warped = np.zeros((2, IMGSZ, IMGSZ, 3), dtype=np.uint8)
        augment.warp_image(black, matrix, warped)
        assert warped[0, 0].tolist() == [114, 114, 114]
        assert warped[IMGSZ // 2, IMGSZ // 2].tolist() == [0, 0, 0]


def test_box_outside_the_image_is_removed_and_half_of_one_is_cut():
    boxes = np.array([[0, 10, 10, 50, 50], [1, 100, 10, 140, 50]], dtype=np.float32)
    matrix = augment.warp_matrix(Warp(translate_x=0.5 - 30 / 128), (IMGSZ, IMGSZ), (IMGSZ, IMGSZ))
    kept = augment.warp_boxes(boxes, matrix, 1.0, (IMGSZ, IMGSZ))
    assert kept == pytest.approx(np.array([[0, 0, 10, 20, 50], [1, 70, 10, 110, 50]]), abs=1e-4)
    away = augment.warp_matrix(Warp(translate_x=0.5 - 60 / 128), (IMGSZ, IMGSZ), (IMGSZ, IMGSZ))
    assert augment.warp_boxes(boxes, away, 1.0, (IMGSZ, IMGSZ))[:, 0].tolist() == [1]


@QUICK
@given(angle=st.floats(-45, 45), scale=st.floats(0.1, 1.9), shift_x=st.floats(0.1, 0.9), shift_y=st.floats(0.1, 0.9))
def test_warped_boxes_end_at_the_edge_and_are_large_enough(angle, scale, shift_x, shift_y):
    random = np.random.default_rng(1)
    corners = random.uniform(0, 200, size=(8, 2))
    boxes = np.concatenate([np.arange(8)[:, None], corners, corners + random.uniform(1, 56, (8, 2))], axis=1)
    warp = Warp(angle=angle, scale=scale, translate_x=shift_x, translate_y=shift_y)
    matrix = augment.warp_matrix(warp, (256, 256), (IMGSZ, IMGSZ))
    kept = augment.warp_boxes(boxes.astype(np.float32), matrix, scale, (IMGSZ, IMGSZ))
    assert ((kept[:, 1:] >= 0) & (kept[:, 1:] <= IMGSZ)).all()
    assert (kept[:, 3:] - kept[:, 1:3] > 2).all()
    assert set(kept[:, 0]) <= set(range(8))


@pytest.mark.parametrize("case", GOLDEN["box_candidates_golden"])
def test_boxes_are_kept_as_published(case):
    before, after = np.array([case["before_xyxy"]], dtype=float), np.array([case["after_xyxy"]], dtype=float)
    assert augment.is_worth_keeping(before, after, case["area_thr"]).tolist() == [case["keep"]]


def test_whole_box_is_kept_when_the_image_shrinks():
    """What is left is judged against the box as scaled: a fifth of each side is all of it, not a 25th."""
    matrix = augment.warp_matrix(augment.Warp(scale=0.2), (256, 256), (128, 128))
    boxes = np.array([[0, 64, 64, 192, 192]], dtype=np.float32)
    assert len(augment.warp_boxes(boxes, matrix, 0.2, (128, 128))) == 1


def triangle_on_black():
    """Return (pixels, one box of class 0, xyxy in pixels)."""
    pixels = np.zeros((S, S, 3), dtype=np.uint8)
    cv2.fillPoly(pixels, [(TRIANGLE * S).astype(np.int32)], (255, 255, 255))
    return pixels, np.array([[0, *TRIANGLE.min(axis=0) * S, *TRIANGLE.max(axis=0) * S]], dtype=np.float32)


@pytest.mark.parametrize("angle", [20, 45, -70, 180])
def test_rotated_polygon_has_a_tighter_box_than_its_rotated_box(angle):
    pixels, boxes = triangle_on_black()
    matrix = augment.warp_matrix(Warp(angle=angle), (S, S), (S, S))
    warped = np.empty_like(pixels)
    augment.warp_image(pixels, matrix, warped)
    outlines = outlines_of(TRIANGLE * S)
    (box,) = augment.warp_boxes(boxes, matrix, 1.0, (S, S), outlines)
    assert box[1:] == pytest.approx(bounds_of_white(warped), abs=2)
    (loose,) = augment.warp_boxes(boxes, matrix, 1.0, (S, S))
    assert (box[3:] - box[1:3]).prod() <= (loose[3:] - loose[1:3]).prod()


def test_polygon_is_kept_with_less_left_than_a_box():
    """A strip of a twentieth is left of both objects: enough for an outline (1 %), too little for a box (10 %)."""
    square = [[100, 0], [200, 0], [200, 100], [100, 100]]
    boxes = np.array([[0, 100, 0, 200, 100], [1, 100, 0, 200, 100]], dtype=np.float32)
    kept = augment.warp_boxes(boxes, np.eye(3), 1.0, (105, 105), outlines_of(square, []))
    assert kept.tolist() == [[0, 100, 0, 105, 100]]


def test_colour_tables_are_the_published_ones():
    golden = GOLDEN["hsv_lut_golden"]
    hue, saturation, value = augment.hsv_tables(np.array(golden["gains_h_s_v"])).T
    assert hue[golden["hue_in"]].tolist() == golden["hue_out"]
    assert saturation[[0, 100, 190, 255]].tolist() == golden["sat_out_for_0_100_190_255"]
    assert value[[0, 100, 190, 255]].tolist() == golden["val_out_for_0_100_190_255"]


@pytest.mark.parametrize(("channel", "gain"), [(0, 1.4), (1, 0.5), (2, 1.6)])
def test_gain_changes_its_own_channel_only(channel, gain):
    gains = np.ones(3)
    gains[channel] = gain
    for number, (table, plain) in enumerate(
        zip(augment.hsv_tables(gains).T, augment.hsv_tables(np.ones(3)).T, strict=True)
    ):
        assert bool((table == plain).all()) is (number != channel)


@pytest.mark.parametrize("case", GOLDEN["mosaic_golden"], ids=lambda case: str(case["center_xy"]))
def test_mosaic_tiles_lie_as_published(case):
    for tile in case["tiles"]:
        height, width = tile["hw"]
        target, source = augment.mosaic_tile(tile["tile"], (width, height), tuple(case["center_xy"]), case["s"])
        assert list(target) == tile["canvas_x1y1x2y2"]
        assert list(source) == tile["source_x1y1x2y2"]
        assert [target[0] - source[0], target[1] - source[1]] == tile["pad_xy"]


@QUICK
@given(
    tile=st.integers(0, 3),
    width=st.integers(1, IMGSZ),
    height=st.integers(1, IMGSZ),
    x=st.integers(IMGSZ // 2, IMGSZ * 3 // 2 - 1),
    y=st.integers(IMGSZ // 2, IMGSZ * 3 // 2 - 1),
)
def test_mosaic_tile_fits_its_quarter_and_touches_the_centre(tile, width, height, x, y):
    """A target and a source of unequal size would raise in the middle of a training."""
    (x1, y1, x2, y2), (a1, b1, a2, b2) = augment.mosaic_tile(tile, (width, height), (x, y), IMGSZ)
    assert (x2 - x1, y2 - y1) == (a2 - a1, b2 - b1)
    assert 0 <= a1 < a2 <= width and 0 <= b1 < b2 <= height
    assert 0 <= x1 < x2 <= 2 * IMGSZ and 0 <= y1 < y2 <= 2 * IMGSZ
    assert (x1 if tile % 2 else x2) == x and (y1 if tile >= 2 else y2) == y


@pytest.mark.parametrize(("width", "height"), [(200, 100), (100, 200), (50, 25), (128, 128)])
def test_letterboxed_object_lies_in_its_box(width, height):
    pixels, labels = object_on_black(width, height, (width // 4, height // 4, width // 2, height * 3 // 4))
    framed, ratio, (left, top) = letterbox(pixels, (IMGSZ, IMGSZ))
    (box,) = augment.labels_to_boxes(labels, width * ratio, height * ratio, left, top)
    assert box[1:] == pytest.approx(bounds_of_white(framed), abs=1.1)


def test_labels_and_boxes_convert_both_ways():
    boxes = np.array([[0, 10, 20, 30, 60], [1, -5, 0, 200, 50]], dtype=np.float32)
    labels = augment.boxes_to_labels(boxes, 100, 80)
    back = augment.labels_to_boxes(labels, 100, 80)
    assert back[0] == pytest.approx(boxes[0], abs=1e-4)
    assert back[1] == pytest.approx([1, 0, 0, 100, 50], abs=0.01), "cut at the image's edge"


@QUICK
@given(
    boxes=st.lists(
        st.tuples(st.floats(-50, 250), st.floats(-50, 250), st.floats(0, 200), st.floats(0, 200)), max_size=5
    )
)
def test_labels_are_within_the_image_for_any_box(boxes):
    boxes = np.array([[0, x, y, x + w, y + h] for x, y, w, h in boxes], dtype=np.float32).reshape(-1, 5)
    labels = augment.boxes_to_labels(boxes, 160, 120)
    assert ((labels[:, 1:] >= 0) & (labels[:, 1:] <= 1)).all()


@pytest.mark.parametrize("function", ["warp", "labels", "pixels", "flip"])
def test_images_without_objects_have_no_boxes(function):
    nothing = np.zeros((0, 5), dtype=np.float32)
    changed = {
        "warp": lambda: augment.warp_boxes(nothing, np.eye(3), 1.0, (IMGSZ, IMGSZ)),
        "labels": lambda: augment.labels_to_boxes(nothing, IMGSZ, IMGSZ),
        "pixels": lambda: augment.boxes_to_labels(nothing, IMGSZ, IMGSZ),
        "flip": lambda: augment.flip_labels(nothing, up_down=True, left_right=True),
    }[function]()
    assert (changed.shape, changed.dtype) == ((0, 5), np.float32)


@QUICK
@given(seed=st.integers(0, 2**32), limit=st.floats(0, 1))
def test_limits_of_zero_draw_no_change(seed, limit):
    hyp = Hyperparameters(degrees=0, translate=0, scale=0, shear=0, perspective=0, hsv_h=0, hsv_s=0, hsv_v=0)
    assert augment.draw_warp(np.random.default_rng(seed), hyp) == Warp()
    assert augment.draw_hsv_gains(np.random.default_rng(seed), hyp).tolist() == [1, 1, 1]
    shifted = augment.draw_warp(np.random.default_rng(seed), Hyperparameters(translate=limit))
    assert abs(shifted.translate_x - 0.5) <= limit + 1e-12
