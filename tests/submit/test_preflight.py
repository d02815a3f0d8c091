"""What would fail in a minute on a node is said before anything is queued."""

import pytest

from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.errors import SpecError
from hpc_yolo.preflight import preflight
from hpc_yolo.resources import resource_folder
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import Spec, TrainSpec


@pytest.fixture
def try_network(tmp_path):
    """Check a spec whose network is a file with the rows of `like`, after replacements."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))

    def check(like="yolov5n", imgsz=640, **changes):
        text = (resource_folder("configs") / "models" / f"{like}.yaml").read_text(encoding="utf-8")
        for before, after in changes.items():
            text = text.replace(before, after)
        model = tmp_path / "mine.yaml"
        model.write_text(text, encoding="utf-8")
        train = TrainSpec(imgsz=imgsz)
        spec = Spec(name="run", model=str(model), data=str(data), output=str(tmp_path / "runs"), train=train)
        preflight(spec, RunDirectory(tmp_path / "runs" / "run"), for_slurm=False)

    return check


def test_rows_that_make_a_network_pass(try_network):
    try_network()


def test_rows_that_make_none_are_named_before_anything_is_queued(try_network):
    with pytest.raises(SpecError, match=r"mine\.yaml is not a model config: row 9, .*unknown block 'SPPG'"):
        try_network(SPPF="SPPG")


def test_a_size_that_is_no_multiple_of_its_stride_is_refused_with_the_next(try_network):
    with pytest.raises(SpecError, match=r"train\.imgsz: 96 is no multiple of 64") as caught:
        try_network(like="yolov5n6", imgsz=96)
    assert "train.imgsz=128" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "yolov5n", "freeze": 99}, r"the first 99 layers are to be frozen, and the model has 25 layers"),
        ({"model": "yolov5s6", "freeze": 34}, r"no layer is left to learn: the model has 34 layers, 0 to 33"),
        ({"model": "yolov5n", "freeze": [0, 25]}, r"there is no layer 25: .*\(yolov5n\)"),
        ({"weights": "yolov5s.pt", "freeze": 99}, r"the first 99 layers"),
        ({"model": "yolov5n6", "freeze": 33}, None),
        ({"model": "yolov5n", "freeze": [0, 24]}, None),
    ],
)
def test_layers_to_freeze_that_are_not_there_are_named_before_anything_is_queued(tmp_path, changes, words):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))
    model, weights = changes.get("model", ""), changes.get("weights", "")
    train = TrainSpec(freeze=changes["freeze"])
    spec = Spec(name="run", model=model, weights=weights, data=str(data), output=str(tmp_path / "runs"), train=train)
    run = RunDirectory(tmp_path / "runs" / "run")
    if words is None:
        preflight(spec, run, for_slurm=False)
        return
    with pytest.raises(SpecError, match=rf"train\.freeze: {words}"):
        preflight(spec, run, for_slurm=False)


def test_a_split_that_training_does_not_read_is_a_warning(tmp_path):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))
    data.write_text(f"{data.read_text()}test: gone\n")
    spec = Spec(name="run", model="yolov5n", data=str(data), output=str(tmp_path / "runs"))
    (warning,) = preflight(spec, RunDirectory(tmp_path / "runs" / "run"), for_slurm=False)
    assert "test: " in warning and "gone is not there" in warning
