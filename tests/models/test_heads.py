"""The head: initial biases, anchors per level, and decoding in every precision."""

import math

import pytest
import torch
from golden import GOLDEN

from hpc_yolo.models.heads.yolov5 import Detect

ANCHORS = [
    [19, 27, 44, 40, 38, 94],
    [96, 68, 86, 152, 180, 137],
    [140, 301, 303, 264, 238, 542],
    [436, 615, 739, 380, 925, 792],
]
STRIDES = torch.tensor([8.0, 16.0, 32.0, 64.0])


@pytest.mark.parametrize("num_classes", [int(key) for key in GOLDEN["bias_init"]["cls_add"]])
def test_initial_biases_equal_published_priors(num_classes):
    """Without them thousands of wrong boxes with a high score dominate the first steps."""
    head = Detect(num_classes, ANCHORS, [4, 4, 4, 4])
    before = [conv.bias.detach().clone().view(3, -1) for conv in head.m]
    head.set_strides(STRIDES)
    for conv, old, stride in zip(head.m, before, STRIDES.tolist(), strict=True):
        added = conv.bias.detach().view(3, -1) - old
        assert torch.equal(added[:, :4], torch.zeros(3, 4))
        assert added[:, 4].tolist() == pytest.approx([GOLDEN["bias_init"]["obj_add"][f"{stride:.0f}"]] * 3, abs=1e-5)
        expected = GOLDEN["bias_init"]["cls_add"][str(num_classes)]
        assert added[:, 5:].flatten().tolist() == pytest.approx([expected] * 3 * num_classes, abs=1e-4)


@pytest.mark.parametrize("rows", [ANCHORS, ANCHORS[::-1]], ids=["ascending", "descending"])
def test_smallest_anchors_are_assigned_to_finest_level_in_grid_units(rows):
    head = Detect(2, rows, [4, 4, 4, 4])
    head.set_strides(STRIDES)
    expected = torch.tensor(ANCHORS).view(4, 3, 2) / STRIDES.view(-1, 1, 1)
    torch.testing.assert_close(head.anchors, expected)


def test_state_dict_excludes_strides():
    """Published state dicts contain the anchors only."""
    assert [key for key in Detect(2, ANCHORS, [4] * 4).state_dict() if not key.startswith("m.")] == ["anchors"]


def constant_head(num_classes=2):
    """Return a head whose raw outputs are its biases."""
    head = Detect(num_classes, [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]], [1, 1]).eval()
    head.set_strides(torch.tensor([8.0, 16.0]))
    for conv in head.m:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    return head


@torch.no_grad()
def test_zero_outputs_decode_to_anchors_at_cell_centres():
    decoded, _ = constant_head()([torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 2, 3)])
    assert decoded.shape == (1, 3 * 4 * 6 + 3 * 2 * 3, 7)
    # Rows by level, anchor, y, x: the second anchor's cell x=5, y=2 of the first level, then the last row of all.
    assert decoded[0, 24 + 2 * 6 + 5].tolist() == pytest.approx([5.5 * 8, 2.5 * 8, 16, 30, 0.5, 0.5, 0.5])
    assert decoded[0, -1].tolist() == pytest.approx([2.5 * 16, 1.5 * 16, 59, 119, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_mixed_precision_does_not_round_boxes_to_pixels(dtype):
    """bf16 has 8 bits: between 512 and 1024 it has every fourth pixel only, which lowers mAP at high IoU thresholds."""
    head = constant_head()
    for conv in head.m:
        torch.nn.init.constant_(conv.bias, 0.296875)  # exact in either type, so that only decoding can round
    levels = [torch.zeros(1, 1, 4, 100), torch.zeros(1, 1, 2, 50)]
    expected, _ = head(levels)
    with torch.autocast("cpu", dtype):
        decoded, _ = head(levels)
    torch.testing.assert_close(decoded[..., :4].float(), expected[..., :4], rtol=0, atol=0.01)


def test_head_with_one_class_has_finite_biases():
    head = Detect(1, ANCHORS, [4] * 4)
    head.set_strides(STRIDES)
    assert all(math.isfinite(value) for conv in head.m for value in conv.bias.tolist())
