"""Test-time augmentation: the boxes of three views, in the coordinates of the image."""

import pytest
import torch
from filled import fill_by_rule

from hpc_yolo.models import build_from_config, build_model, load_config
from hpc_yolo.models.tta import augmented_forward


@pytest.mark.parametrize(
    ("name", "side", "rows"),
    [
        # 320 px: 6300 rows, of which 300 are the coarsest level's. 0.83: 288 x 288 px. 0.67: 224 x 224 px, of whose
        # 3087 rows the finest level's 2352 go.
        ("yolov5n", 320, 6000 + 5103 + 735),
        # 320 px: 6375 rows, of which 75. 0.83: 320 px again. 0.67: 256 px, of whose 4080 rows 3072 go.
        ("yolov5n6", 320, 6300 + 6375 + 1008),
        # A third of yolov5n's rows: one prediction a cell.
        ("yolov5n-af", 320, 2000 + 1701 + 245),
        ("yolov5n6-af", 320, 2100 + 2125 + 336),
    ],
)
@torch.no_grad()
def test_augmented_output_has_rows_of_three_views(name, side, rows):
    model = build_model(name, 2).eval()
    found = augmented_forward(model, torch.rand(1, 3, side, side))
    assert found.shape[2] == 7 and found.isfinite().all()
    assert found.shape[1] == rows


@torch.no_grad()
def test_boxes_of_each_view_cover_whole_image():
    """The model returns one box at the centre of every cell: the rows of each view must cover the image."""
    model = build_model("yolov5n", 2).eval()
    fill_by_rule(model)
    for convolution in model.head.m:
        convolution.weight.zero_()
        convolution.bias.zero_()  # all boxes in the middle of their cells
    images = torch.rand(1, 3, 320, 320)
    rows = augmented_forward(model, images)[0]
    first, second = rows[:6000], rows[6000:11103]
    assert first[:, 0].mean().item() == pytest.approx(160, abs=1)
    # 0.83 x 320 = 265 pixels were filled up to 288 on the right: mirrored back, that lies left of the image.
    assert second[:, 0].max().item() == pytest.approx(320 - 4 / 0.83, abs=0.1)
    assert second[:, 0].min().item() == pytest.approx(320 - 284 / 0.83, abs=0.1)
    assert second[:, 1].max().item() == pytest.approx(284 / 0.83, abs=0.1)


@torch.no_grad()
def test_model_without_middle_stride_drops_whole_levels():
    """A fraction of the rows computed from the family's strides would cut through a level of strides 8 and 32."""
    config = load_config("yolov5n")
    config["anchors"] = [config["anchors"][0], config["anchors"][2]]
    config["head"][-1][0] = [17, 23]
    model = build_from_config(config, 2, "own").eval()
    # 3 anchors. 320 px: 40 x 40 cells stay, 10 x 10 go. 288 px: all. 224 px: 28 x 28 go, 7 x 7 stay.
    rows = augmented_forward(model, torch.rand(1, 3, 320, 320))
    assert rows.shape[1] == 3 * (1600 + 36 * 36 + 9 * 9 + 7 * 7)


@torch.no_grad()
def test_model_of_one_level_keeps_all_views():
    """Its head has stride 8, but its layers reach stride 32, so that sides are multiples of 32."""
    config = load_config("yolov5n")
    config["anchors"] = config["anchors"][:1]
    config["head"][-1][0] = 17
    model = build_from_config(config, 2, "own").eval()
    assert augmented_forward(model, torch.rand(1, 3, 96, 96)).shape[1] == 3 * (12 * 12 + 12 * 12 + 12 * 12)
