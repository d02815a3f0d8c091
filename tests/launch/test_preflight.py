"""Checks before a submission: invalid specs are refused before anything is queued."""

import zipfile

import pytest

from hpc_yolo.core.errors import CheckpointError, SpecError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import Spec, TrainSpec


@pytest.fixture
def check_model(tmp_path):
    """Check a spec whose model is a file with the layers of `like`, after replacements."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))

    def check(like="yolov5n", imgsz=640, **changes):
        text = (resource_directory("configs") / "models" / f"{like}.yaml").read_text(encoding="utf-8")
        for before, after in changes.items():
            text = text.replace(before, after)
        model = tmp_path / "mine.yaml"
        model.write_text(text, encoding="utf-8")
        train = TrainSpec(imgsz=imgsz)
        spec = Spec(name="run", model=str(model), data=str(data), output=str(tmp_path / "runs"), train=train)
        preflight(spec, RunDirectory(tmp_path / "runs" / "run"), for_slurm=False)

    return check


def test_valid_layers_pass(check_model):
    check_model()


def test_invalid_layers_are_refused(check_model):
    with pytest.raises(SpecError, match=r"mine\.yaml is not a model config: layer 9, .*unknown block 'SPPG'"):
        check_model(SPPF="SPPG")


def test_image_size_that_is_not_a_multiple_of_the_stride_is_refused_with_the_next_one(check_model):
    with pytest.raises(SpecError, match=r"train\.imgsz: 96 is not a multiple of 64") as caught:
        check_model(like="yolov5n6", imgsz=96)
    assert "train.imgsz=128" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "yolov5n", "freeze": 99}, r"the first 99 layers are to be frozen, and the model has 25 layers"),
        ({"model": "yolov5s6", "freeze": 34}, r"no trainable layer is left: the model has 34 layers, 0 to 33"),
        ({"model": "yolov5n", "freeze": [0, 25]}, r"there is no layer 25: .*\(yolov5n\)"),
        ({"weights": "yolov5s.pt", "freeze": 99}, r"the first 99 layers"),
        ({"model": "yolov5n6", "freeze": 33}, None),
        ({"model": "yolov5n", "freeze": [0, 24]}, None),
    ],
)
def test_missing_layers_to_freeze_are_refused(tmp_path, changes, message):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))
    model, weights = changes.get("model", ""), changes.get("weights", "")
    train = TrainSpec(freeze=changes["freeze"])
    spec = Spec(name="run", model=model, weights=weights, data=str(data), output=str(tmp_path / "runs"), train=train)
    run = RunDirectory(tmp_path / "runs" / "run")
    if message is None:
        preflight(spec, run, for_slurm=False)
        return
    with pytest.raises(SpecError, match=rf"train\.freeze: {message}"):
        preflight(spec, run, for_slurm=False)


def test_missing_unused_split_is_a_warning(tmp_path):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))
    data.write_text(f"{data.read_text()}test: gone\n")
    spec = Spec(name="run", model="yolov5n", data=str(data), output=str(tmp_path / "runs"))
    (warning,) = preflight(spec, RunDirectory(tmp_path / "runs" / "run"), for_slurm=False)
    assert "test: " in warning and "gone does not exist" in warning


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("best.onnx", b"\x08\x07", "is an exported model"),
        ("best.torchscript", b"", "is an exported model"),
        ("yolov3.weights", b"", "is a Darknet file"),
        ("page.pt", b"<!DOCTYPE html>", "its content is an HTML page"),
        ("yolov8n.pt", b"\x80\x02cultralytics.nn.tasks\nDetectionModel\n)\x81.", "package ultralytics"),
        ("evil.pt", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", r"imports posix\.system"),
    ],
)
def test_unsupported_weights_are_refused(name, content, message, tmp_path):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))
    path = tmp_path / name
    if content.startswith(b"\x80"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", content)
    else:
        path.write_bytes(content)
    spec = Spec(name="run", model="yolov5n", weights=str(path), data=str(data), output=str(tmp_path / "runs"))
    with pytest.raises(CheckpointError, match=message):
        preflight(spec, RunDirectory(tmp_path / "runs" / "run"), for_slurm=False)
