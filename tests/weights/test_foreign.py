"""Weights of other programs: errors name the program and the remedy, and no code of the file runs."""

import argparse
import contextlib
import os
import sys
import types
from collections import OrderedDict

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from published_files import write_published
from torch import nn

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.weights.model_file import read_model_file


@contextlib.contextmanager
def stub_classes(*names):
    """Create classes with names of packages that are not installed, for the time of the block."""
    made: list[str] = []
    classes = []
    for name in names:
        module, _, kind = name.rpartition(".")
        if module.startswith("torch."):  # which is installed
            classes.append(getattr(sys.modules[module], kind))
            continue
        parts = module.split(".")
        for number in range(len(parts)):
            part = ".".join(parts[: number + 1])
            if part not in sys.modules:
                sys.modules[part] = types.ModuleType(part)
                made.append(part)
        classes.append(type(kind, (nn.Module,), {"__module__": module}))
        setattr(sys.modules[module], kind, classes[-1])
    try:
        yield classes
    finally:
        for name in made:
            del sys.modules[name]


class Called:
    """Object that is pickled as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("root", "layer", "message"),
    [
        ("ultralytics.nn.tasks.DetectionModel", "ultralytics.nn.modules.block.C2f", "ultralytics (YOLOv8 and newer"),
        ("models.yolo.Model", "models.common.RepConv", "another YOLO program (YOLOv3, YOLOv7, YOLOv9"),
        ("models.yolo.DetectionModel", "models.common.RepNCSPELAN4", "another YOLO program"),
        ("models.models.Darknet", "utils.layers.WeightedFeatureFusion", "another YOLO program"),
        ("nets.yolo.YoloBody", "nets.darknet.Focus", "another YOLO program"),
        ("yolov6.models.yolo.Model", "yolov6.layers.common.RepVGGBlock", "was written by YOLOv6"),
        ("super_gradients.training.models.YoloNAS_S", "super_gradients.modules.Conv", "SuperGradients (YOLO-NAS)"),
        ("mmdet.models.detectors.YOLOX", "mmdet.models.CSPDarknet", "was written by MMDetection"),
        ("torchvision.models.resnet.ResNet", "torchvision.models.resnet.BasicBlock", "the package torchvision"),
        ("acme_vision.net.Net", "acme_vision.net.Block", "the package acme_vision"),
        ("torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear", "not a YOLOv5 detector"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_model_of_another_program_error_has_program_and_remedy(root, layer, message, protocol, tmp_path):
    path = tmp_path / "best.pt"
    with stub_classes(root, layer) as (model_class, layer_class):
        model = model_class()
        model.layer = layer_class(1, 1) if layer_class is nn.Linear else layer_class()
        options = argparse.Namespace(imgsz=640)
        torch.save({"epoch": -1, "model": model, "train_args": options}, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError) as caught:
        read_model_file(path)
    assert message in caught.value.message and "nothing of it was run" in caught.value.message
    assert "YOLOv5 detectors" in caught.value.hint and "do not load" not in str(caught.value)


@pytest.mark.parametrize("function", [os.system, getattr, eval])
def test_model_of_another_program_with_dangerous_call_has_warning(function, tmp_path):
    """A class of a known package must not hide a dangerous call after it."""
    marker = tmp_path / "it ran"
    with stub_classes("ultralytics.nn.tasks.DetectionModel") as (model_class,):
        content = {"model": model_class(), "more": Called(function, f"touch {marker}", "x")}
        torch.save(content, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=rf"ultralytics .* also imports \w+\.{function.__name__}") as caught:
        read_model_file(tmp_path / "best.pt")
    assert "unless you trust its author" in caught.value.hint and not marker.exists()


@pytest.mark.parametrize("name", ["subprocess.Popen", "ctypes.CDLL", "pathlib.Path"])
def test_class_of_standard_library_is_refused(name, tmp_path):
    module, _, kind = name.rpartition(".")
    found = getattr(__import__(module), kind)
    torch.save({"model": Called(found, "x")}, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"imports .*, which no YOLOv5 detector needs"):
        read_model_file(tmp_path / "best.pt")


WEIGHTS = OrderedDict({"backbone.conv1.weight": torch.ones(2, 2)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WEIGHTS, "holds no model under `model` or `ema`, but backbone.conv1.weight"),
        ({"state_dict": WEIGHTS, "meta": {"epoch": 1}}, "tensors alone under 'state_dict', such as backbone.conv1"),
        ({"model": WEIGHTS, "start_epoch": 3}, "tensors alone under 'model', such as backbone.conv1.weight"),
        ({"ema": {"module": WEIGHTS}}, "tensors alone under 'ema'"),
        (torch.ones(3), "but one tensor"),
        ([1, 2], "holds no model"),
        ({"\x1b[2J": 1}, r"but \\x1b\[2J"),
    ],
)
def test_file_of_tensors_without_model_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        read_model_file(tmp_path / "w.pth")


def write_torchscript(path):
    with torch.no_grad():
        traced = torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    torch.jit.save(traced, str(path))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("scripted.pt", write_torchscript, "is a TorchScript file"),
        ("old.pt", lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False), "before 1.6"),
        ("page.pt", lambda path: path.write_text("<!DOCTYPE html><html>404</html>"), "its content is an HTML page"),
        ("lfs.pt", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        ("empty.pt", lambda path: path.touch(), "an empty file"),
        ("foreign.safetensors", lambda path: safetensors.torch.save_file(dict(WEIGHTS), path), "of another program"),
        ("x.onnx", lambda path: path.write_bytes(b"\x08\x07"), "is an exported model"),
        ("x.torchscript", lambda path: path.write_bytes(b"nothing"), "is an exported model"),
        ("x.engine", lambda path: path.touch(), "is a TensorRT file, which is not read"),
        ("yolov3.weights", lambda path: path.touch(), "is a Darknet file, which is not read"),
        ("notes.txt", lambda path: path.write_text("not weights"), "is not a weights file"),
        ("no_suffix", lambda path: path.write_text("not weights"), "is not a weights file"),
        ("missing.safetensors", lambda path: None, "No such file"),
        ("missing", lambda path: None, "No such file"),
    ],
)
def test_file_without_model_error_has_file_type(name, write, message, tmp_path):
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=message):
        read_model_file(tmp_path / name)


def test_file_type_follows_content_not_name(tmp_path):
    write_published(tmp_path / "w.pt")
    for name in ("w.PT", "w.bin", "w", "w.ckpt"):
        (tmp_path / name).write_bytes((tmp_path / "w.pt").read_bytes())
        assert read_model_file(tmp_path / name).names == ("a", "b", "c")


def test_commands_report_weights_of_another_program(tmp_path):
    with stub_classes("ultralytics.nn.tasks.DetectionModel") as (model_class,):
        torch.save({"model": model_class()}, tmp_path / "yolov8n.pt")
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8, 3), dtype=np.uint8))
    data = tmp_path / "data.yaml"
    data.write_text(f"val: {tmp_path}\nnames: [a]\n")
    commands = (["weights", "show"], ["export"], ["predict", str(tmp_path / "x.png"), "--weights"])
    for arguments in (*commands, ["val", "--data", str(data), "--weights"]):
        error = CliRunner().invoke(cli, [*arguments, str(tmp_path / "yolov8n.pt")]).exception
        assert isinstance(error, CheckpointError) and "the package ultralytics" in error.message, arguments
