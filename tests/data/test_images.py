"""Reading, resizing and padding images."""

import cv2
import numpy as np
import pytest
from golden import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.images import letterbox, read_image, reduction_for, resize_to, resized_wh, to_chw_rgb

IMGSZ = 128
QUICK = settings(deadline=None, database=None, derandomize=True)


def test_missing_file_is_named_without_an_errno(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: cannot be read: No such file or directory$"):
        read_image(str(tmp_path / "gone.jpg"))


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


@QUICK
@given(width=st.integers(10, 400), height=st.integers(10, 400), side_h=st.integers(1, 6), side_w=st.integers(1, 6))
def test_letterbox_has_the_requested_shape(width, height, side_h, side_w):
    shape = 32 * side_h, 32 * side_w
    pixels, ratio, (left, top) = letterbox(np.zeros((height, width, 3), dtype=np.uint8), shape)
    assert pixels.shape == (*shape, 3)
    assert width * ratio + 2 * left == pytest.approx(shape[1], abs=0.51)
    assert height * ratio + 2 * top == pytest.approx(shape[0], abs=0.51)


@pytest.mark.parametrize(
    ("width", "height", "augment_it", "method"),
    [(200, 100, True, cv2.INTER_LINEAR), (200, 100, False, cv2.INTER_AREA), (50, 100, False, cv2.INTER_LINEAR)],
    ids=["shrunk in training", "shrunk in evaluation", "enlarged"],
)
def test_image_is_resized_as_published(width, height, augment_it, method):
    """Longer side to the size, the other cut off to whole pixels; by area only where evaluation shrinks."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    ratio = IMGSZ / max(width, height)
    expected = cv2.resize(pixels, (int(width * ratio), int(height * ratio)), interpolation=method)
    size_wh = resized_wh(width, height, IMGSZ)
    assert (resize_to(pixels, size_wh, augment=augment_it) == expected).all()


@pytest.mark.parametrize(
    ("longer_side", "reduction"),
    [(1, 1), (640, 1), (1279, 1), (1280, 2), (1920, 2), (2559, 2), (2560, 4), (5120, 8), (50_000, 8)],
)
def test_reduction_leaves_the_size_at_least(longer_side, reduction):
    assert reduction_for(longer_side, 640) == reduction


def test_image_of_the_right_size_is_not_copied():
    pixels = np.zeros((96, IMGSZ, 3), dtype=np.uint8)
    assert resize_to(pixels, (IMGSZ, 96), augment=True) is pixels


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_channels_are_first_and_red_is_the_first_of_them(is_mirrored):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    pixels = pixels[::-1, ::-1] if is_mirrored else pixels
    turned = to_chw_rgb(pixels)
    assert turned.flags.c_contiguous
    for channel, source in enumerate((2, 1, 0)):
        assert (turned[channel] == pixels[:, :, source]).all()
