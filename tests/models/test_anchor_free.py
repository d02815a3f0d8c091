"""The anchor-free head: prior biases, decoding and its round trip, and the models that have it."""

import math

import pytest
import torch
from golden import GOLDEN

from hpc_yolo.core.errors import SpecError
from hpc_yolo.models import build_from_config, build_model, load_config
from hpc_yolo.models.heads.anchor_free import AnchorFree
from hpc_yolo.models.losses.task_aligned import NUM_BINS

STRIDES = torch.tensor([8.0, 16.0])
NAMES = [f"{name}-af" for name in GOLDEN["models"]]


def constant_head(num_classes=2):
    """Return a head whose raw outputs are its biases."""
    head = AnchorFree(num_classes, [16, 32]).eval()
    head.set_strides(STRIDES)
    for branch in (*head.box, *head.classes):
        torch.nn.init.zeros_(branch[-1].weight)
    return head


def levels_of(height=4, width=6):
    return [torch.zeros(1, 16, height, width), torch.zeros(1, 32, height // 2, width // 2)]


@torch.no_grad()
def test_initial_scores_are_of_five_objects_an_image_and_boxes_five_cells_wide():
    head = constant_head(num_classes=4)
    decoded, _ = head(levels_of(80, 80))
    assert decoded.shape == (1, 6400 + 1600, 9)
    assert torch.equal(decoded[..., 4], torch.ones(1, 8000)), "no objectness: the score of a class is all there is"
    assert decoded[0, :6400, 5:].sum().item() == pytest.approx(5, rel=0.01)
    assert decoded[0, 6400:, 5:].sum().item() == pytest.approx(5, rel=0.01)
    cells = torch.cat((decoded[0, :6400, 2:4] / 8, decoded[0, 6400:, 2:4] / 16))
    assert cells.amin().item() == pytest.approx(5, abs=0.2) and cells.amax().item() == pytest.approx(5, abs=0.2)


@torch.no_grad()
def test_distributions_decode_to_boxes_they_were_made_from():
    """A distance between two bins is shared by them; rows are by level, y, x."""
    head = constant_head()
    raw = [torch.full((1, 1, 4, 6, 4 * NUM_BINS + 2), -50.0), torch.full((1, 1, 2, 3, 4 * NUM_BINS + 2), -50.0)]
    boxes, row = [], 0
    generator = torch.Generator().manual_seed(0)
    for level, stride in zip(raw, STRIDES.tolist(), strict=True):
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                distances = torch.rand(4, generator=generator) * 14.9
                for side, distance in enumerate(distances.tolist()):
                    below = math.floor(distance)
                    logits = level[0, 0, y, x, side * NUM_BINS : (side + 1) * NUM_BINS]
                    logits[below] = math.log(below + 1 - distance)
                    logits[below + 1] = math.log(distance - below)
                left, top, right, bottom = (distances * stride).tolist()
                px, py = (x + 0.5) * stride, (y + 0.5) * stride
                boxes.append([px - left, py - top, px + right, py + bottom])
                level[0, 0, y, x, -1] = row / 10
                row += 1
    decoded = head._decode(raw)[0]
    centre, half = decoded[:, :2], decoded[:, 2:4] / 2
    torch.testing.assert_close(torch.cat((centre - half, centre + half), dim=1), torch.tensor(boxes), atol=1e-3, rtol=0)
    torch.testing.assert_close(decoded[:, 6], (torch.arange(row) / 10).sigmoid())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_mixed_precision_does_not_round_boxes_to_pixels(dtype):
    head = constant_head()
    for branch in head.box:
        torch.nn.init.constant_(branch[-1].bias, 0.296875)  # exact in either type, so that only decoding can round
        branch[-1].bias[5] = 2.0
    expected, _ = head(levels_of(4, 100))
    with torch.autocast("cpu", dtype):
        decoded, _ = head(levels_of(4, 100))
    torch.testing.assert_close(decoded[..., :4].float(), expected[..., :4], rtol=0, atol=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_model_has_backbone_and_neck_of_anchor_model(name):
    """Weights of the anchor family start all layers but the head."""
    with torch.device("meta"):
        model, other = build_model(name, 80), build_model(name.removesuffix("-af"), 80)
    assert torch.equal(model.stride, other.stride) and model.image_stride == other.image_stride
    kept, shapes = (
        {key: value.shape for key, value in each.model[:-1].state_dict().items()} for each in (model, other)
    )
    assert kept == shapes
    own = sum(parameter.numel() for parameter in model.parameters())
    assert own < 1.35 * sum(parameter.numel() for parameter in other.parameters())


def test_head_tensors_but_last_of_classes_do_not_depend_on_classes():
    first, second = (
        {name: tensor.shape for name, tensor in build_model("yolov5n-af", number).state_dict().items()}
        for number in (2, 80)
    )
    others = [name for name in first if first[name] != second[name]]
    assert others == [f"model.24.classes.{level}.2.{kind}" for level in range(3) for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("yolov5n-af", {"anchors": 3}, "anchors: AnchorFree has none; leave the field out"),
        ("yolov5n", {"anchors": None}, "anchors missing: Detect needs them"),
    ],
)
def test_anchors_are_where_head_uses_them(name, changes, message):
    config = load_config(name) | changes
    config = {key: value for key, value in config.items() if value is not None}
    with pytest.raises(SpecError, match=message):
        build_from_config(config, 2, "own")
