"""What a run makes of its pictures before the first step: kept in memory or not, what has no effect, what is told."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.labels import scan_split
from hpc_yolo.data.loader import memory_needed_bytes
from hpc_yolo.data.synth import CLASSES, write_shapes_dataset
from hpc_yolo.distributed import World
from hpc_yolo.engine import build as build_module
from hpc_yolo.engine.build import build, fits_in_memory, without_effect
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import Hyperparameters, Spec, TrainSpec

IMGSZ = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    return write_shapes_dataset(folder, num_train=5, num_val=2, image_size=(96, 64))


@pytest.fixture
def index(data):
    return scan_split(load_dataset(data), "train")


def one_rank(local_world_size: int = 1) -> World:
    return World(ProcessInfo(0, 0, 0, 1, local_world_size, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())


def parts(data: Path, tmp_path: Path, said: list[str], **train: object):
    fields = {"epochs": 1, "batch": 2, "imgsz": IMGSZ, "workers": 0}
    spec = Spec(name="r", model="yolov5n", data=str(data), train=TrainSpec(**(fields | train)))
    run = RunDirectory(tmp_path / "r")
    run.create()
    return build(spec, one_rank(), run, warn=said.append)


def test_what_memory_is_needed_is_known_before_a_picture_is_read(index):
    assert memory_needed_bytes(index, IMGSZ) == pytest.approx(5 * IMGSZ * (IMGSZ * 64 / 96) * 3, abs=5)


@pytest.mark.parametrize(
    ("times", "num_ranks", "fits"), [(1.1, 1, False), (1.4, 1, True), (8, 8, False), (11, 8, True)]
)
def test_pictures_of_all_ranks_of_a_node_leave_a_fifth_of_its_memory_free(index, monkeypatch, times, num_ranks, fits):
    """Each rank keeps all pictures; what one of eight takes must not be what all eight find free."""
    said: list[str] = []
    free_bytes = int(memory_needed_bytes(index, IMGSZ) * times)
    monkeypatch.setattr(build_module, "available_bytes", lambda: free_bytes)
    assert fits_in_memory(index, IMGSZ, one_rank(num_ranks), said.append) is fits
    assert bool(said) is not fits


def test_where_memory_does_not_suffice_training_goes_on_from_files(data, tmp_path, monkeypatch):
    """A night's run that ends because a node has less memory than the last one is worse than a slower one."""
    monkeypatch.setattr(build_module, "available_bytes", lambda: 1000)
    said: list[str] = []
    training = parts(data, tmp_path, said, cache="ram").training
    assert len(list(training.epoch(0))) == 3
    assert len(said) == 1
    assert said[0].startswith("train.cache: pictures are read from files: decoded, the 5 pictures need 0.0 GiB")


def test_pictures_that_fit_are_read_once(data, tmp_path):
    training = parts(data, tmp_path, [], cache="ram").training
    assert len(training._loader.dataset._pictures._memory) == 5


def test_one_class_makes_a_network_of_one_class(data, tmp_path):
    made = parts(data, tmp_path, [], single_cls=True)
    assert made.description.names == ["item"]
    assert made.model.head.num_classes == 1
    classes = torch.cat([batch.targets[:, 1] for batch in made.training.epoch(0)])
    assert len(classes) > 0 and set(classes.tolist()) == {0}
    assert all(set(batch.targets[:, 1].tolist()) <= {0} for batch in made.validation)
    assert len(CLASSES) > 1


def test_rectangles_come_from_the_spec(data, tmp_path):
    training = parts(data, tmp_path, [], rect=True, imgsz=96).training
    assert {tuple(batch.images.shape[2:]) for batch in training.epoch(0)} == {(64, 96)}


def test_copy_paste_on_boxes_alone_is_told(index, tmp_path):
    hyp = Hyperparameters(copy_paste=0.5)
    assert without_effect(hyp, index) == ["hyperparameter copy_paste has no effect: no label is a polygon"]
    label = Path(index.paths[0].replace("/images/", "/labels/")).with_suffix(".txt")
    text = label.read_text()
    try:
        label.write_text("0 0.1 0.1 0.9 0.1 0.5 0.9\n")
        outlined = scan_split(load_dataset(Path(index.paths[0]).parents[2] / "dataset.yaml"), "train")
    finally:
        label.write_text(text)
    assert without_effect(hyp, outlined) == []
    assert np.isfinite(outlined.outlines.points).all()


def test_a_contradiction_in_the_dataset_file_is_told(data, tmp_path):
    path = data.parent / "contradiction.yaml"
    path.write_text(data.read_text() + "nc: 99\n")
    said: list[str] = []
    parts(path, tmp_path, said)
    assert len(said) == 1 and "nc: 99 is not the number of names, 4" in said[0]
