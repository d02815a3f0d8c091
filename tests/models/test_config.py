"""Model configs written by users: files in YOLOv5's format build, and errors name the layer."""

import re

import pytest
import torch
import yaml
from torch import nn

from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.models import build_model
from hpc_yolo.models.layers import Conv

# A file in YOLOv5's format: layers in brackets, None, quotes, nc, a short model of two levels.
ORIGINAL_FORMAT = """
# parameters
nc: 3  # number of classes
depth_multiple: 0.33
width_multiple: 0.25
anchors:
  - [10,13, 16,30, 33,23]
  - [30,61, 62,45, 59,119]

backbone:
  # [from, number, module, args]
  [[-1, 1, Conv, [64, 6, 2, 2]],
   [-1, 1, Conv, [128, 3, 2]],
   [-1, 3, C3, [128]],
   [-1, 1, Conv, [256, 3, 2]],
   [-1, 6, C3, [256]],
   [-1, 1, Conv, [512, 3, 2]],
   [-1, 1, SPPF, [512, 5]]]

head:
  [[-1, 1, Conv, [256, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 4], 1, Concat, [1]],
   [-1, 3, C3, [256, False]],
   [[-1, 6], 1, Detect, [nc, anchors]]]
"""


def write(directory, text):
    path = directory / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def forward(model):
    return model.eval()(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))[0]


@torch.no_grad()
def test_yolov5_format_builds_model_with_classes_of_dataset(tmp_path):
    model = build_model(write(tmp_path, ORIGINAL_FORMAT), 7)
    assert (model.num_classes, model.stride.tolist()) == (7, [8, 16])
    assert forward(model).shape == (1, 3 * (8 * 12 + 4 * 6), 12)


def test_both_formats_build_same_model(tmp_path):
    ours = ORIGINAL_FORMAT.replace("nn.Upsample, [None, 2, 'nearest']", "Upsample, []").replace("[nc, anchors]", "[]")
    shapes = []
    for text in (ORIGINAL_FORMAT, ours.replace("Concat, [1]", "Concat, []").replace("nc: 3", "")):
        model = build_model(write(tmp_path, text), 3)
        shapes.append({name: tensor.shape for name, tensor in model.state_dict().items()})
    assert shapes[0] == shapes[1]


def test_negative_source_is_relative_to_its_layer(tmp_path):
    """-5 in layer 9 is layer 4."""
    model = build_model(write(tmp_path, ORIGINAL_FORMAT.replace("[[-1, 4], 1, Concat", "[[-1, -5], 1, Concat")), 3)
    assert model.model[10].cv1.conv.in_channels == 64 + 64


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("SiLU", nn.SiLU),
        ("nn.ReLU()", nn.ReLU),
        ("torch.nn.Hardswish()", nn.Hardswish),
        ("nn.Mish(inplace=True)", nn.Mish),
        ("GELU", nn.GELU),
        ("nn.LeakyReLU(0.1)", nn.LeakyReLU),
        ("nn.LeakyReLU(negative_slope=0.1, inplace=True)", nn.LeakyReLU),
    ],
)
@torch.no_grad()
def test_activation_name_selects_module(written, expected, tmp_path):
    model = build_model(write(tmp_path, ORIGINAL_FORMAT + f"activation: {written}\n"), 3)
    found = {type(module.act) for module in model.modules() if isinstance(module, Conv)}
    assert found == {expected}
    if expected is nn.LeakyReLU:
        assert model.model[0].act.negative_slope == 0.1
    assert forward(model).isfinite().all()


@torch.no_grad()
def test_anchor_count_sets_anchors_per_level(tmp_path):
    """AutoAnchor sets their values later; the shape of the head must be known before."""
    config = yaml.safe_load(ORIGINAL_FORMAT) | {"anchors": 5}
    model = build_model(write(tmp_path, yaml.safe_dump(config)), 3)
    assert model.head.anchors_pixels().shape == (2, 5, 2)
    assert model.head.anchors_pixels()[1].flatten().tolist() == list(range(10))
    assert forward(model).shape == (1, 5 * (8 * 12 + 4 * 6), 8)


def test_channel_multiple_rounds_widths(tmp_path):
    text = ORIGINAL_FORMAT.replace("width_multiple: 0.25", "width_multiple: 0.3")
    assert build_model(write(tmp_path, text), 3).model[0].conv.out_channels == 24
    text += "channel_multiple: 4\n"
    assert build_model(write(tmp_path, text), 3).model[0].conv.out_channels == 20


def test_copied_config_with_changed_width_builds(tmp_path):
    text = (resource_directory("configs") / "models" / "yolov5n.yaml").read_text(encoding="utf-8")
    model = build_model(write(tmp_path, text.replace("width_multiple: 0.25", "width_multiple: 0.125")), 3)
    assert (model.model[0].conv.out_channels, model.num_classes) == (8, 3)


C3_LAYER = "[-1, 3, C3, [128]]"
INVALID_CONFIGS = [
    # text, replacement, message
    (C3_LAYER, "[-1, 3, C3x, [128]]", r"layer 2, .*unknown block 'C3x'; there are Conv, C3"),
    (C3_LAYER, "[-1, 3, nn.Conv2d, [128]]", r"layer 2, .*unknown block 'nn.Conv2d'"),
    (C3_LAYER, "[-1, 3, C3]", r"layer 2, .*a layer is \[from, repeats, block, \[arguments\]\]"),
    (C3_LAYER, "conv", r"layer 2, conv: a layer is"),
    (C3_LAYER, "[-1, '3', C3, [128]]", r"layer 2, .*repeats: '3' is not a whole number from 1"),
    (C3_LAYER, "[-1, -3, C3, [128]]", r"layer 2, .*repeats: -3"),
    (C3_LAYER, "[-1, 3, Conv, [128]]", r"layer 2, .*Conv is not repeated; C3 is"),
    (C3_LAYER, "[-1, 4000, C3, [128]]", r"layer 2, .*more than 1000 blocks"),
    (C3_LAYER, "[-1, 3, C3, 128]", r"layer 2, .*arguments: 128 is not a list"),
    (C3_LAYER, "[-1, 3, C3, []]", r"layer 2, .*C3 takes width, shortcut, of which the first is required"),
    (C3_LAYER, "[-1, 3, C3, [128, 1]]", r"layer 2, .*shortcut: 1 is neither true nor false"),
    (C3_LAYER, "[-1, 3, C3, [128, true, 1]]", r"layer 2, .*C3 takes width, shortcut"),
    (C3_LAYER, "[9, 3, C3, [128]]", r"layer 2, .*there is no layer 9 before this one"),
    (C3_LAYER, "[-3, 3, C3, [128]]", r"layer 2, .*there is no layer -3 before this one"),
    (C3_LAYER, "[a, 3, C3, [128]]", r"layer 2, .*'a' is not the number of a layer"),
    (C3_LAYER, "[[0, 1], 3, C3, [128]]", r"layer 2, .*C3 reads one layer, not 2"),
    (C3_LAYER, "[-1, 1, Conv, [128, 3, 1, 4]]", r"layer 2, .*a padding of 4 around a kernel of 3"),
    (C3_LAYER, "[-1, 1, Conv, [128.5]]", r"layer 2, .*width: 128.5 is not a whole number"),
    (C3_LAYER, "[-1, 1, Conv, [200000000]]", r"layer 2, .*width: 200000000"),
    (C3_LAYER, "[-1, 1, Detect, [nc, anchors]]", r"layer 2 is a Detect, a head, which must be the last layer"),
    ("[-1, 1, Conv, [128, 3, 2]]", "[-1, 1, Conv, [128, 3, 3]]", r"256 pixels become .* not a whole stride"),
    ("[512, 5]", "[512, 4]", r"layer 6, .*kernel: 4 is even"),
    ("Concat, [1]", "Concat, [2]", r"layer 9, .*Concat joins channels"),
    ("[[-1, 4], 1, Concat", "[[], 1, Concat", r"layer 9, .*must name a layer"),
    ("[[-1, 4], 1, Concat", "[[-1, 0], 1, Concat", r"layer 9, .*its inputs have \[32, 128\] cells a side"),
    ("Conv, [512, 3, 2]", "Conv, [512, 64, 2, 0]", r"layer 5, .*nothing is left of an image of 256 pixels"),
    ("[None, 2, 'nearest']", "[None, 4, 'nearest']", r"layer 8, .*Upsample doubles by the nearest neighbour"),
    ("[nc, anchors]", "[nc, [[1, 2]]]", r"layer 11, .*its anchors from `anchors`"),
    ("[[-1, 6], 1, Detect", "[[-1, 6, 5], 1, Detect", r"layer 11, .*anchors for 2 levels, and the head has 3"),
    (
        "   [[-1, 6], 1, Detect, [nc, anchors]]]",
        "  ]",
        r"the last layer must be a head \(Detect, AnchorFree\), not a C3",
    ),
    ("depth_multiple: 0.33", "", r"depth_multiple missing"),
    ("depth_multiple: 0.33", "depth_multiple: .nan", r"depth_multiple: nan is not a number above 0"),
    ("width_multiple: 0.25", "width_multiple: wide", r"width_multiple: 'wide' is not a number above 0"),
    ("width_multiple: 0.25", "width_multiple: -1", r"width_multiple: -1 is not a number above 0"),
    ("width_multiple: 0.25", "width_multiple: 0.25\nchannel_multiple: 0", r"channel_multiple 0 is not a whole number"),
    (
        "width_multiple: 0.25",
        "width_multiple: 0.25\nactivations: ReLU",
        r"no field activations; did you mean",
    ),
    (
        "width_multiple: 0.25",
        "width_multiple: 0.25\nactivation: eval(1)",
        r"activation: .*'eval\(1\)'",
    ),
    ("width_multiple: 0.25", "width_multiple: 0.25\nactivation: ReLU(0.1)", r"activation: unknown 'ReLU\(0.1\)'"),
    ("width_multiple: 0.25", "width_multiple: 0.25\nactivation: Sigmoid", r"unknown 'Sigmoid'; there are SiLU, ReLU"),
    ("nc: 3", "ch: 4", r"ch: images have 3 channels, not 4"),
    ("backbone:", "backbones:", r"no field backbones; did you mean backbone"),
    ("33,23]", "33]", r"anchors: \[10, 13, 16, 30, 33\] is not a list of widths and heights"),
    ("33,23]", "33,0]", r"anchors: .* in pixels above 0"),
    ("33,23]", "33,23, 1,2]", r"anchors: must be lists of equal length"),
]


@pytest.mark.parametrize(("written", "replacement", "message"), INVALID_CONFIGS)
def test_invalid_config_error_names_layer(written, replacement, message, tmp_path):
    assert written in ORIGINAL_FORMAT
    with pytest.raises(SpecError, match=r"own\.yaml is not a model config: ") as caught:
        build_model(write(tmp_path, ORIGINAL_FORMAT.replace(written, replacement)), 3)
    assert re.search(message, caught.value.message), caught.value.message
    assert "yolov5n.yaml" in caught.value.hint


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("anchors", 0, "anchors: .* 0 is not a whole number from 1 to 100"),
        ("anchors", "auto", "anchors: .* 'auto' is not a whole number"),
        ("anchors", [], "must be lists of equal length"),
        ("anchors", True, "True is not a whole number"),
        ("head", [], "head: must be a list of layers"),
        ("backbone", {"layers": 1}, "backbone: must be a list of layers"),
        ("width_multiple", 100, "a width of"),
    ],
)
def test_invalid_field_error_names_field(field, value, message, tmp_path):
    config = yaml.safe_load(ORIGINAL_FORMAT)
    config["backbone"][3][3][0] = 2560
    with pytest.raises(SpecError, match=message):
        build_model(write(tmp_path, yaml.safe_dump(config | {field: value})), 3)


@pytest.mark.parametrize("text", ["", "[1, 2", "plain text", "- a list", "backbone: !!python/object:os.system ls"])
def test_file_that_is_no_config_is_refused(text, tmp_path):
    with pytest.raises(SpecError, match=r"own\.yaml is not a model config"):
        build_model(write(tmp_path, text), 80)
