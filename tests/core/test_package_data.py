"""Shipped dataset YAMLs, found by name in specs, in the flags of `train` and in `val --data`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import DataError
from hpc_yolo.core.package_data import dataset_names, resource_directory, shipped_dataset
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.spec.load import Override, load_spec

SHIPPED = resource_directory("configs") / "data"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("coco.yaml", "coco.yaml"),
        ("coco", "coco.yaml"),
        ("coco.yml", "coco.yaml"),
        ("data/coco.yaml", "coco.yaml"),
        ("configs/data/coco.yaml", "coco.yaml"),
        ("./shapes.yaml", "shapes.yaml"),
        ("coco128.yaml", None),
        ("coco.txt", None),
        ("", None),
        ("/datasets/coco.yaml", None),
        ("../coco.yaml", None),
        ("datasets/coco.yaml", None),
        ("coco\0.yaml", None),
    ],
)
def test_shipped_dataset_is_found_by_name_or_path_of_guide(written, expected):
    assert shipped_dataset(written) == (expected and SHIPPED / expected)


@pytest.mark.parametrize("written", ["coco.yaml", "coco", "data/coco.yaml"])
def test_dataset_is_searched_beside_spec_then_in_working_directory_then_shipped(written, tmp_path, monkeypatch):
    beside, working = tmp_path / "specs", tmp_path / "work"
    for directory in (beside / "data", working / "data"):
        directory.mkdir(parents=True)
    monkeypatch.chdir(working)
    spec = beside / "spec.yaml"
    spec.write_text(f"name: x\nmodel: yolov5n\ndata: {written}\n")
    assert load_spec(spec).data.path == str(SHIPPED / "coco.yaml")
    for directory in (working, beside):
        (directory / written).touch()
        assert load_spec(spec).data.path == str(directory / written)


def test_directory_with_name_of_shipped_dataset_is_ignored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").mkdir()
    overrides = [Override(field, value, value) for field, value in (("name", "x"), ("model", "yolov5n"))]
    assert load_spec(None, [*overrides, Override("data", "coco", "--data coco")]).data.path == str(
        SHIPPED / "coco.yaml"
    )


def test_missing_dataset_error_lists_shipped_names(tmp_path):
    with pytest.raises(DataError, match=r"no dataset .*coco128\.yaml.*shipped: coco, shapes") as caught:
        load_dataset(tmp_path / "coco128.yaml")
    assert dataset_names() == ["coco", "shapes"] and caught.value.hint


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data", "coco.yaml", "--weights", "", "--cfg", "yolov5n", "--device", "cpu"],
        ["train", "--data", "data/coco.yaml", "--weights", "", "--cfg", "yolov5n", "--device", "cpu"],
        ["val", "--weights", "{weights}", "--data", "coco.yaml"],
        ["val", "--weights", "{weights}", "--data", "data/coco.yaml"],
    ],
)
def test_missing_images_of_shipped_dataset_error_has_their_location(arguments, tmp_path, monkeypatch, coco_weights):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, [argument.format(weights=coco_weights) for argument in arguments])
    error = result.exception
    assert isinstance(error, DataError), result.output
    assert str(tmp_path / "datasets/coco/images/train2017") in error.message.replace("val2017", "train2017")
    assert f"put the dataset at {tmp_path}/datasets/coco, or copy {SHIPPED}/coco.yaml" in error.hint


@pytest.fixture(scope="module")
def coco_weights(tmp_path_factory) -> Path:
    from hpc_yolo.checkpoint import ModelDescription, save_model
    from hpc_yolo.models import build_model, load_config

    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    names = [f"class{number}" for number in range(80)]
    description = ModelDescription(model="yolov5n", config=load_config("yolov5n"), names=names, imgsz=64)
    save_model(path, build_model("yolov5n", 80), description)
    return path
