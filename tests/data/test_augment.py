"""Geometry and colour against figures of the original recipe; `test_moments.py` has the spread of what is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from hpc_yolo.data import augment
from hpc_yolo.data.augment import Warp
from hpc_yolo.data.images import letterbox
from hpc_yolo.data.sampler import rect_plan

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "yolov5_golden.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["letterbox_golden"], ids=lambda case: f"{case['h']}x{case['w']}-{case['auto']}")
def test_letterbox_pads_as_published(case):
    size = case["new_shape"]
    shape = (size, size) if isinstance(size, int) else tuple(size)
    options = {"auto": case["auto"], "scaleup": case["scaleup"], "stride": case["stride"]}
    pixels, ratio, padding = letterbox(np.zeros((case["h"], case["w"], 3), dtype=np.uint8), shape, **options)
    assert list(pixels.shape[:2]) == case["out_hw"]
    assert ratio == pytest.approx(case["ratio"])
    assert padding == pytest.approx((case["dw"], case["dh"]))
    top, bottom, left, right = case["top_bottom_left_right"]
    inside = (pixels != 114).any(axis=2)
    assert inside.sum() == inside[top : len(inside) - bottom, left : inside.shape[1] - right].size


@pytest.mark.parametrize("case", GOLDEN["rect_golden"]["cases"], ids=lambda case: f"{case['batch']}-{case['pad']}")
def test_rectangles_are_planned_as_published(case):
    shapes_hw = np.array(GOLDEN["rect_golden"]["wh"], dtype=np.int32)[:, ::-1]
    options = {"batch": case["batch"], "imgsz": case["img_size"], "stride": case["stride"], "pad": case["pad"]}
    order, shapes = rect_plan(shapes_hw, **options)
    aspects = shapes_hw[:, 0] / shapes_hw[:, 1]
    assert aspects[order].tolist() == aspects[case["order"]].tolist(), "equal aspects may stand in any order"
    assert [list(shape) for shape in shapes] == case["batch_shapes_hw"]


def test_a_warp_moves_boxes_as_published():
    golden = GOLDEN["perspective_golden"]
    warp = Warp(*golden["values"])
    output_wh = tuple(golden["dsize_wh"])
    matrix = augment.warp_matrix(warp, tuple(golden["canvas"]), output_wh)
    assert matrix[:2] == pytest.approx(np.array(golden["M_2x3"]), rel=1e-6)
    rows = augment.warp_boxes(np.array(golden["boxes_in"], dtype=np.float32), matrix, warp.scale, output_wh)
    assert rows == pytest.approx(np.array(golden["boxes_out"]), rel=1e-5)


@pytest.mark.parametrize("case", GOLDEN["box_candidates_golden"])
def test_a_box_of_which_too_little_is_left_goes(case):
    before, after = np.array([case["before_xyxy"]], dtype=float), np.array([case["after_xyxy"]], dtype=float)
    assert augment.is_worth_keeping(before, after, case["area_thr"]).tolist() == [case["keep"]]


def test_colours_turn_by_the_published_tables():
    golden = GOLDEN["hsv_lut_golden"]
    hue, saturation, value = augment.hsv_tables(np.array(golden["gains_h_s_v"]))
    assert hue[golden["hue_in"]].tolist() == golden["hue_out"]
    assert saturation[[0, 100, 190, 255]].tolist() == golden["sat_out_for_0_100_190_255"]
    assert value[[0, 100, 190, 255]].tolist() == golden["val_out_for_0_100_190_255"]


@pytest.mark.parametrize("case", GOLDEN["mosaic_golden"], ids=lambda case: str(case["center_xy"]))
def test_tiles_of_a_mosaic_lie_as_published(case):
    for tile in case["tiles"]:
        height, width = tile["hw"]
        place, source = augment.mosaic_tile(tile["tile"], (width, height), tuple(case["center_xy"]), case["s"])
        assert list(place) == tile["canvas_x1y1x2y2"]
        assert list(source) == tile["source_x1y1x2y2"]
        assert [place[0] - source[0], place[1] - source[1]] == tile["pad_xy"]


def test_flips_take_the_boxes_along():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    rows = np.array([[1, 0.25, 0.5, 0.1, 0.2]], dtype=np.float32)
    flipped, moved = augment.flip(pixels, rows, up_down=True, left_right=True)
    assert (flipped == pixels[::-1, ::-1]).all()
    assert moved == pytest.approx(np.array([[1, 0.75, 0.5, 0.1, 0.2]]))


def test_pixels_and_shares_lead_back_and_forth():
    rows = np.array([[0, 10, 20, 30, 60], [1, -5, 0, 200, 50]], dtype=np.float32)
    shares = augment.pixels_to_shares(rows, 100, 80)
    back = augment.shares_to_pixels(shares, 100, 80)
    assert back[0] == pytest.approx(rows[0], abs=1e-4)
    assert back[1] == pytest.approx([1, 0, 0, 100, 50], abs=0.01), "cut at the image's edge"
