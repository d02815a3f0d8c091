"""`hpc-yolo val`, typed: what a person sees and what lies in the folder afterwards."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from hpc_yolo.checkpoint import ModelDescription, save_model
from hpc_yolo.cli.main import cli
from hpc_yolo.data.synth import CLASSES, write_shapes_dataset
from hpc_yolo.errors import HpcYoloError
from hpc_yolo.models import build_model, load_config

IMGSZ = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_shapes_dataset(tmp_path_factory.mktemp("val") / "shapes", num_train=4, num_val=5, image_size=(96, 64))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    model = build_model("yolov5n", len(CLASSES))
    for convolution in model.head.m:
        convolution.bias.data[4::9] += 8  # sure of something everywhere, or there would be nothing to write
    description = ModelDescription(model="yolov5n", config=load_config("yolov5n"), names=list(CLASSES), imgsz=IMGSZ)
    save_model(path, model, description)
    return path


@pytest.fixture
def type_in(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)

    def run(*words: object, weights: Path = weights):
        return CliRunner().invoke(cli, ["val", "--weights", str(weights), "--workers", "0", *map(str, words)])

    return run


@pytest.mark.parametrize("extra", [(), ("--augment",), ("--task", "train"), ("--task", "speed")], ids=str)
def test_figures_of_every_class_as_json(type_in, data, extra):
    result = type_in("--data", data, "--json", *extra)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["num_images"] == (4 if "train" in extra else 5)
    assert {row["name"] for row in report["classes"]} <= set(CLASSES)
    assert 0 <= report["map50_95"] <= report["map50"] <= 1
    assert set(report["speed_ms"]) == {"preprocess", "inference", "nms"}


def test_everything_that_is_asked_for_is_written(type_in, data, tmp_path):
    result = type_in("--data", data, "--save-json", "--save-txt", "--save-conf", "--batch", 2, "--verbose")
    assert result.exit_code == 0, result.output
    for words in ("mAP50-95", "all", *CLASSES):
        assert words in result.stdout
    folder = tmp_path / "runs" / "val" / "exp"
    boxes = json.loads((folder / "predictions.json").read_text())
    assert boxes and {"image_id", "category_id", "bbox", "score"} <= boxes[0].keys()
    assert len(list((folder / "labels").glob("*.txt"))) == 5
    assert (folder / "confusion_matrix.png").stat().st_size > 1000
    assert type_in("--data", data).exit_code == 0
    assert (tmp_path / "runs" / "val" / "exp2").is_dir()


def test_picture_sizes_are_rounded_up_to_whole_strides(type_in, data):
    result = type_in("--data", data, "--img", 70)
    assert "--imgsz 70 is no multiple of 32, the network's largest stride; 96 is taken" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "DATA", "--task", "test"), "there is no split test"),
        (("--data", "nothing.yaml"), "nothing.yaml"),
        ((), "--data is missing"),
        (("--data", "OTHER"), "detects 4 classes (circle, square, triangle …)"),
    ],
)
def test_what_cannot_be_evaluated_is_said(type_in, data, tmp_path, words, said):
    other = tmp_path / "other.yaml"
    other.write_text(f"path: {data.parent}\ntrain: images/train\nval: images/val\nnames: [a]\n")
    result = type_in(*({"DATA": data, "OTHER": other}.get(word, word) for word in words))
    assert isinstance(result.exception, HpcYoloError), result.output
    assert said in str(result.exception)
