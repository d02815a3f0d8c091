"""Model sizes, operation counts and models fused for inference: published counts, equal outputs."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from filled import fill_by_rule
from golden import GOLDEN

from hpc_yolo.cli.main import cli
from hpc_yolo.models import build_model
from hpc_yolo.models.complexity import complexity
from hpc_yolo.models.fuse import fused


@pytest.mark.parametrize("name", GOLDEN["models"])
def test_sizes_and_operations_equal_published_values(name):
    golden = GOLDEN["models"][name]
    counted = complexity(name, 80)
    assert (counted.num_parameters, counted.conv_macs) == (golden["params"], golden["conv_macs_640"])
    assert counted.gflops == pytest.approx(golden["conv_gflops_640"], abs=1e-3)
    assert complexity(name, 80, 1280).conv_macs == 4 * golden["conv_macs_640"]
    with torch.device("meta"):
        fused_model = fused(build_model(name, 80))
    assert sum(parameter.numel() for parameter in fused_model.parameters()) == golden["fused_params"]
    assert len(fused_model.state_dict()) == golden["fused_state_dict_tensors"]


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n6", "yolov5n-af"])
@torch.no_grad()
def test_fused_model_returns_same_output(name):
    model = build_model(name, 80).double().eval()
    fill_by_rule(model)
    images = torch.rand(2, 3, 128, 192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, found = model(images)[0], fused(model)(images)[0]
    assert (expected - found).abs().max() < 1e-9
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()), (
        "the copy is fused, not the model"
    )


def test_models_table_has_published_and_counted_values(tmp_path):
    own = tmp_path / "own.yaml"
    text = (Path(__file__).parents[2] / "configs" / "models" / "yolov5n.yaml").read_text()
    own.write_text(text.replace("depth_multiple: 0.33", "depth_multiple: 0.67"))
    result = CliRunner().invoke(cli, ["models", "yolov5n", str(own), "--json"], catch_exceptions=False)
    nano, mine = json.loads(result.output)
    published = dict(zip(GOLDEN["published"]["columns"], GOLDEN["published"]["yolov5n"], strict=True))
    assert (nano["map50_95"], nano["v100_b1_ms"]) == (published["mAP50-95"], published["v100_b1_ms"])
    assert (nano["parameters"], nano["gflops_640"]) == (1_872_157, 4.468)
    assert mine["map50_95"] is None and mine["parameters"] > nano["parameters"]


def test_models_table_fits_80_columns_and_names_its_sources():
    """Every name and value must be readable at 80 columns."""
    table = CliRunner(env={"COLUMNS": "80"}).invoke(cli, ["models"], catch_exceptions=False).output
    for name in GOLDEN["models"]:
        assert f" {name} " in table
    assert "37.4" in table and "7.24" in table and "19.4" in table and "\N{HORIZONTAL ELLIPSIS}" not in table
    text = " ".join(table.split())
    assert "counted here, for 80 classes" in text and "published by the YOLOv5 project" in text
    assert "not measured here" in text


@pytest.mark.parametrize(("name", "values"), [item for item in GOLDEN["published"].items() if item[0] != "columns"])
def test_file_of_published_values_equals_golden_values(name, values):
    import yaml

    path = Path(__file__).parents[2] / "configs" / "published" / "models.yaml"
    assert yaml.safe_load(path.read_text())["models"][name] == values[:6]
