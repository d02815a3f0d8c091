"""Exported files, run by ONNX Runtime and TorchScript, return the output of the model."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from spec_runs import NETWORK

from hpc_yolo.checkpoint import ModelDescription, save_model
from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.inference import export as export_module
from hpc_yolo.inference.export import ExportOptions, export
from hpc_yolo.models import build_from_config, build_model, load_config
from hpc_yolo.weights.model_file import build_detector, read_model_file


def written_weights(model, directory):
    torch.manual_seed(0)
    path = directory / "best.safetensors"
    description = ModelDescription(model=model, config=load_config(model), names=["cat", "dog"], imgsz=64)
    save_model(path, build_model(model, 2), description)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return written_weights(str(NETWORK), tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module", params=["yolov5n", "yolov5n-af"])
def file_of_each_head(request, tmp_path_factory):
    return read_model_file(written_weights(request.param, tmp_path_factory.mktemp("weights")))


@pytest.fixture
def file(weights):
    return read_model_file(weights)


def expected(file, images):
    with torch.no_grad():
        return build_detector(file)(images)[0]


@pytest.mark.parametrize("dynamic", [False, True])
def test_onnx_file_returns_output_of_model(file_of_each_head, tmp_path, dynamic):
    file = file_of_each_head
    done = export(
        build_detector(file), file.names, "onnx", tmp_path / "n.onnx", ExportOptions((64, 96), batch=2, dynamic=dynamic)
    )
    assert done.difference < 1e-4
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    assert ([value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]) == (
        ["images"],
        ["output0"],
    )
    for shape in [(2, 3, 64, 96), (1, 3, 128, 64)][: 1 + dynamic]:
        images = torch.rand(shape)
        (found,) = session.run(None, {"images": images.numpy()})
        assert np.abs(found - expected(file, images).numpy()).max() < 1e-2, "pixels"
    properties = {item.key: item.value for item in onnx.load(done.path).metadata_props}
    assert properties == {"stride": "32", "names": "{0: 'cat', 1: 'dog'}"}


def test_torchscript_file_returns_output_of_model_and_has_metadata(file_of_each_head, tmp_path):
    file = file_of_each_head
    done = export(
        build_detector(file),
        file.names,
        "torchscript",
        tmp_path / "n.torchscript",
        ExportOptions((64, 64), dynamic=True),
    )
    extra = {"config.txt": ""}
    loaded = torch.jit.load(done.path, _extra_files=extra)
    images = torch.rand(2, 3, 96, 64)
    assert torch.allclose(loaded(images), expected(file, images), atol=1e-2)
    assert json.loads(extra["config.txt"]) == {
        "shape": [1, 3, 64, 64],
        "stride": 32,
        "names": {"0": "cat", "1": "dog"},
        "dynamic": True,
    }


def test_export_with_different_output_is_not_written(file, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_run_torchscript", lambda content: lambda images: torch.full((1, 240, 7), 0.5))
    with pytest.raises(CheckpointError, match="output of torchscript differs by"):
        export(build_detector(file), file.names, "torchscript", tmp_path / "n.torchscript", ExportOptions((64, 64)))
    assert list(tmp_path.iterdir()) == []


def test_sides_that_are_no_multiple_of_stride_are_refused(file, tmp_path):
    with pytest.raises(CheckpointError, match="multiples of 32"):
        export(build_detector(file), file.names, "onnx", tmp_path / "n.onnx", ExportOptions((64, 70)))


def test_unsupported_operator_is_reported_and_nothing_is_written(file, tmp_path):
    """Exporters raise their own classes of errors; the other formats must still be written."""
    model = build_detector(file)
    model.model[1].act = Fourier()
    with pytest.raises(CheckpointError, match=r"onnx cannot be written.*fft") as caught:
        export(model, file.names, "onnx", tmp_path / "n.onnx", ExportOptions((64, 64)))
    assert "--opset" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


class Fourier(torch.nn.Module):
    def forward(self, x):
        return torch.fft.fft2(x).abs()


@pytest.mark.parametrize("activation", ["ReLU", "LeakyReLU(0.1)", "Hardswish", "Mish", "GELU"])
@pytest.mark.parametrize("opset", [12, 17, 20])
def test_all_activations_are_exported(activation, opset, tmp_path):
    config = load_config(str(NETWORK)) | {"activation": activation}
    model = build_from_config(config, 2, "own").eval()
    done = export(model, ["cat", "dog"], "onnx", tmp_path / "n.onnx", ExportOptions((64, 64), opset=opset))
    assert done.difference < 1e-4


@pytest.mark.parametrize(
    "formats", [["onnx", "torchscript"], ["onnx,torchscript"], ["onnx", "--format", "torchscript"]]
)
def test_include_accepts_lists_and_size_is_rounded_up_to_stride(formats, weights, tmp_path):
    """Formats may be separated by a space or a comma; a size between strides is rounded up with a warning."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(weights.read_bytes())
    result = CliRunner().invoke(cli, ["export", "--include", *formats, "--weights", str(path), "--img", "70"])
    assert result.exit_code == 0, result.output
    assert {found.suffix for found in tmp_path.iterdir()} == {".safetensors", ".onnx", ".torchscript"}
    assert "not multiples of 32; using [96, 96]" in result.output
    (images,) = onnxruntime.InferenceSession(path.with_suffix(".onnx")).get_inputs()
    assert images.shape == [1, 3, 96, 96]


def test_missing_package_error_has_install_command(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"pip install 'hpc-yolo\[export\]'"):
        export(build_detector(file), file.names, "onnx", tmp_path / "n.onnx", ExportOptions((64, 64)))


def test_export_command_writes_both_formats_and_continues_after_failure(weights, monkeypatch):
    arguments = ["export", "--weights", str(weights), "--include", "onnx,torchscript", "--img", "64", "96", "--dynamic"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.count("largest difference") == 2
    assert {path.suffix for path in weights.parent.iterdir()} == {".safetensors", ".onnx", ".torchscript"}
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 7
    assert "onnx: ONNX needs" in result.output and result.output.count("largest difference") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one model: a run or checkpoint"),
        (["x.pt", "--include", "tflite"], "must be one of onnx, torchscript"),
        (["x.pt", "--half"], "--half is not supported"),
        (["x.pt", "--simplify"], "--simplify is not supported"),
        (["x.pt", "--include", "onnx", "engine"], "--include engine: must be one of onnx, torchscript"),
        (["x.pt", "--img", "large"], "one side in pixels"),
        (["x.pt", "--img", "64,large"], "one side in pixels"),
        (["x.pt", "--img", "0"], "one side in pixels"),
        (["x.pt", "--img", "64", "64", "64"], "one side in pixels"),
    ],
)
def test_invalid_arguments_are_reported(arguments, message):
    result = CliRunner().invoke(cli, ["export", *arguments], standalone_mode=True)
    assert result.exit_code == 2 and message in result.output
