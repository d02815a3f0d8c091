"""The ten models of the family: a wrong width, name or order makes published weights unusable."""

import functools

import pytest
import torch
import yaml
from filled import fill_by_rule
from golden import GOLDEN
from torch import nn

from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.models import build_model

MODELS = GOLDEN["models"]
CASES = GOLDEN["forward_golden"]["cases"]


@pytest.fixture
def build_on_meta():
    """Return `build_model` on the meta device, which needs little time and memory even for the largest model."""

    def build(name, num_classes=80):
        with torch.device("meta"):
            return build_model(name, num_classes)

    return build


@pytest.fixture(scope="module")
def nano():
    torch.manual_seed(0)
    return build_model("yolov5n", 80)


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_of_layers_equal_published_values(name, build_on_meta):
    model = build_on_meta(name)
    assert num_parameters(model) == MODELS[name]["params"]
    assert [num_parameters(layer) for layer in model.model] == MODELS[name]["layer_params"]
    assert len(model.state_dict()) == MODELS[name]["state_dict_tensors"]


@pytest.mark.parametrize("num_classes", [1, 2, 20, 365])
@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_for_other_class_counts_equal_published_values(name, num_classes, build_on_meta):
    assert num_parameters(build_on_meta(name, num_classes)) == MODELS[name][f"params_nc{num_classes}"]


def test_layers_as_wide_as_head_output_are_not_scaled(build_on_meta):
    """At 251 classes the 768-wide layers of the P6 models keep their nominal width, as in YOLOv5."""
    usual, quirky = build_on_meta("yolov5n6", 250), build_on_meta("yolov5n6", 251)
    assert (usual.model[7].conv.out_channels, quirky.model[7].conv.out_channels) == (192, 768)


@pytest.mark.parametrize("name", MODELS)
def test_macs_and_prediction_rows_at_640_equal_published_values(name, build_on_meta):
    """A wrong stride, kernel or padding changes this count but may not change the parameters."""
    model = build_on_meta(name).eval()
    assert model.stride.tolist() == MODELS[name]["strides"]
    model.to("meta")
    macs = []

    def count(module, _, output):
        macs.append(output[0, 0].numel() * module.weight.numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    decoded, raw = model(torch.zeros(1, 3, 640, 640, device="meta"))
    assert sum(macs) == MODELS[name]["conv_macs_640"]
    assert decoded.shape == (1, MODELS[name]["pred_rows_640"], 85)
    assert [640 // level.shape[2] for level in raw] == MODELS[name]["strides"]


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s"])
def test_state_dict_has_published_names_shapes_and_order(name, build_on_meta):
    state = build_on_meta(name).state_dict()
    golden = GOLDEN["state_dict_keys"]
    assert sorted([key, list(tensor.shape)] for key, tensor in state.items()) == golden[name]
    assert list(state)[:12] == golden[f"{name}_native_order_first12"]
    assert list(state)[-8:] == golden[f"{name}_native_order_last8"]


def test_state_dict_of_four_level_head_equals_published_one(build_on_meta):
    state = build_on_meta("yolov5n6").state_dict()
    head = sorted([key, list(tensor.shape)] for key, tensor in state.items() if key.startswith("model.33."))
    assert head == GOLDEN["state_dict_keys"]["yolov5n6_detect"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=["fp64", "fp32"])
@torch.no_grad()
def test_outputs_of_known_weights_equal_published_values(name, dtype, tolerance):
    case = CASES[name]
    # Of the outputs' scale, units and more: single scores are near 0, and their last bits depend on the threads.
    close = functools.partial(pytest.approx, rel=tolerance, abs=tolerance)
    model = build_model(name, 80).to(dtype).eval()
    fill_by_rule(model)
    height, width = case["input_hw"]
    images = 0.5 + 0.5 * torch.sin(0.013 * torch.arange(3 * height * width, dtype=torch.float64))
    decoded, raw = model(images.view(1, 3, height, width).to(dtype))
    for level, golden in zip(raw, case["levels"], strict=True):
        assert list(level.shape) == golden["shape"]
        assert level.mean().item() == close(golden["mean"])
        assert level[0, 1, 0, 1, :6].tolist() == close(golden["v_0_1_0_1_first6"])
    assert list(decoded.shape) == case["decoded_shape"]
    assert decoded.mean().item() == close(case["decoded_mean"])
    for row, key in ((0, "row0_first6"), (17, "row_17_first6"), (-1, "row_last_first6")):
        assert decoded[0, row, :6].tolist() == close(case[key])


def test_stride_probe_leaves_batchnorm_statistics_unchanged(nano):
    """Statistics of the all-zero probe image would otherwise enter every run and every average."""
    for module in nano.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, 0.03)
            assert torch.equal(module.running_mean, torch.zeros_like(module.running_mean))
            assert torch.equal(module.running_var, torch.ones_like(module.running_var))
            assert module.num_batches_tracked == 0
    assert nano.training
    assert nano.stride.tolist() == [8, 16, 32]


def test_training_mode_returns_raw_levels_and_all_parameters_get_gradients(nano):
    levels = nano.train()(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    assert [tuple(level.shape) for level in levels] == [(2, 3, 8, 12, 85), (2, 3, 4, 6, 85), (2, 3, 2, 3, 85)]
    sum(level.square().mean() for level in levels).backward()
    missing = [name for name, parameter in nano.named_parameters() if parameter.grad is None]
    nano.zero_grad()
    assert missing == []


@torch.no_grad()
def test_channels_last_keeps_output(nano):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected, _ = nano.eval()(images)
    model = build_model("yolov5n", 80).eval()
    model.load_state_dict(nano.state_dict())
    decoded, _ = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-4)


def test_config_file_of_user_builds_model(tmp_path):
    config = yaml.safe_load((resource_directory("configs") / "models" / "yolov5n.yaml").read_text())
    config["width_multiple"] = 0.125
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    model = build_model(path, 3)
    assert model.model[0].conv.out_channels == 8
    assert model.num_classes == 3


def test_unknown_name_error_suggests_nearest():
    with pytest.raises(SpecError, match=r"no model 'yolo5n'.*yolov5x6") as caught:
        build_model("yolo5n", 80)
    assert "yolov5n" in caught.value.hint
