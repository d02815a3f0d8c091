"""Checks before a submission: invalid specs are refused before anything is queued."""

import zipfile

import pytest
import yaml

from hpc_yolo.core.errors import CheckpointError, DataError, SpecError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.plan import slurm_plan
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.weights import needed_weights
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec


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
        spec = Spec(
            name="run", model=str(model), data=DataSpec(path=str(data)), output=str(tmp_path / "runs"), train=train
        )
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
    spec = Spec(
        name="run",
        model=model,
        weights=weights,
        data=DataSpec(path=str(data)),
        output=str(tmp_path / "runs"),
        train=train,
    )
    run = RunDirectory(tmp_path / "runs" / "run")
    if message is None:
        preflight(spec, run, for_slurm=False)
        return
    with pytest.raises(SpecError, match=rf"train\.freeze: {message}"):
        preflight(spec, run, for_slurm=False)


def test_missing_unused_split_is_a_warning(tmp_path):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))
    data.write_text(f"{data.read_text()}test: gone\n")
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path=str(data)), output=str(tmp_path / "runs"))
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
    spec = Spec(
        name="run", model="yolov5n", weights=str(path), data=DataSpec(path=str(data)), output=str(tmp_path / "runs")
    )
    with pytest.raises(CheckpointError, match=message):
        preflight(spec, RunDirectory(tmp_path / "runs" / "run"), for_slurm=False)


def test_weights_are_not_needed_any_more_by_a_run_with_a_checkpoint(tmp_path):
    """A fine-tuned run could not be resumed once the file that it began with was removed."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))
    weights = str(tmp_path / "gone.pt")
    spec = Spec(name="run", weights=weights, data=DataSpec(path=str(data)), output=str(tmp_path / "runs"))
    run = RunDirectory(tmp_path / "runs" / "run")
    run.create()
    assert needed_weights(spec, run) == weights
    with pytest.raises(CheckpointError, match=r"gone\.pt is neither a file nor published"):
        preflight(spec, run, for_slurm=False)
    (run.checkpoints / "state-0001-000000003.safetensors").touch()
    assert needed_weights(spec, run) == "", "nothing to download"
    preflight(spec, run, for_slurm=False)


@pytest.mark.parametrize(
    ("data", "path", "cluster", "note"),
    [
        ("$SLURM_TMPDIR/d.yaml", None, {}, "data: $SLURM_TMPDIR/d.yaml is not checked here, since SLURM_TMPDIR is set"),
        ("$HERE/d.yaml", None, {"env": {"HERE": "/disk"}}, "data: $HERE/d.yaml is not checked here, since HERE"),
        ("$HERE/d.yaml", None, {"setup": ["export HERE=/disk"]}, "data: $HERE/d.yaml is not checked here"),
        ("{directory}/d.yaml", "$TMPDIR/shapes", {}, "data: $TMPDIR/shapes in {directory}/d.yaml is not checked here"),
        ("$HERE/d.yaml", None, {}, None),
        ("{directory}/d.yaml", "$HERE", {}, None),
    ],
)
def test_dataset_of_nodes_is_left_to_them(tmp_path, monkeypatch, data, path, cluster, note):
    source = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))
    content = yaml.safe_load(source.read_text())
    (source.parent / "d.yaml").write_text(yaml.safe_dump(content | ({} if path is None else {"path": path})))
    monkeypatch.setenv("HERE", str(source.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # has another value in a job, although the dataset exists below it
    data = data.format(directory=source.parent)
    request = ClusterSpec(gpus_per_node=0, **cluster)
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path=data), output=str(tmp_path / "runs"), cluster=request)
    run = RunDirectory(tmp_path / "runs" / "run")
    found = preflight(spec, run, for_slurm=True, slurm_answers=False)
    assert [text for text in found if "checked" in text] == found
    assert bool(found) == (note is not None)
    if note is not None:
        assert found[0].startswith(note.format(directory=source.parent))
    planned = slurm_plan(spec, run, "", {"HERE": str(source.parent), "TMPDIR": "/tmp"})
    shown = [decision for subject, decision in planned.decisions() if subject == "data"]
    assert shown == ([f"{data} is expanded where the tasks run"] if "$" in data else [])
    assert planned.has_data_on_nodes == ("$" in data and note is not None)


def test_missing_dataset_behind_variable_of_this_machine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path="$HERE/gone.yaml"), output=str(tmp_path / "runs"))
    with pytest.raises(DataError, match=rf"there is no dataset {tmp_path}/gone.yaml"):
        preflight(spec, RunDirectory(tmp_path / "runs" / "run"), for_slurm=True, slurm_answers=False)
