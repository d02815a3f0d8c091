"""Preparation of images, classes, anchors and frozen layers before the first step."""

import dataclasses
import shutil
from pathlib import Path

import msgspec
import pytest
import torch

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import DataError, TrainingError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.drawn_shapes import CLASSES
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnchorsChecked, AnyEvent, RankLocation, WarningRaised
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training import images
from hpc_yolo.training.build import build

IMGSZ = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "shapes"
    return write_shapes_dataset(directory, num_train=5, num_val=2, image_size=(96, 64))


@pytest.fixture
def index(data):
    return scan_split(load_dataset(data), "train")


def one_rank(local_world_size: int = 1) -> World:
    return World(ProcessInfo(0, 0, 0, 1, local_world_size, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())


def warnings_of(events: list[AnyEvent]) -> list[str]:
    return [event.message for event in events if isinstance(event, WarningRaised)]


def built(data: Path, tmp_path: Path, emitted: list[AnyEvent], model: str = "yolov5n", **train: object):
    fields = {"epochs": 1, "batch": 2, "imgsz": IMGSZ, "workers": 0}
    spec = Spec(name="r", model=model, data=DataSpec(path=str(data)), train=TrainSpec(**(fields | train)))
    run = RunDirectory(tmp_path / "r")
    run.create()
    return build(spec, one_rank(), run, emit=emitted.append)


def test_single_cls_builds_model_with_one_class(data, tmp_path):
    made = built(data, tmp_path, [], single_cls=True)
    assert made.description.names == ["item"]
    assert made.model.head.num_classes == 1
    classes = torch.cat([batch.targets[:, 1] for batch in made.training.epoch(0)])
    assert len(classes) > 0 and set(classes.tolist()) == {0}
    assert all(set(batch.targets[:, 1].tolist()) <= {0} for batch in made.validation)
    assert len(CLASSES) > 1


@pytest.mark.parametrize(
    ("augment_device", "device", "degrees", "has_kernels", "expected"),
    [
        ("auto", "cuda", 0, True, True),
        ("auto", "cpu", 0, True, False),
        ("auto", "cuda", 0, False, False),
        ("auto", "cuda", 1, True, False),
        ("gpu", "cuda", 1, False, True),
        ("cpu", "cuda", 0, True, False),
    ],
    ids=["auto", "no GPU", "no kernels", "rotated", "as requested", "not requested"],
)
def test_images_are_augmented_on_a_gpu_where_that_is_faster(
    monkeypatch, augment_device, device, degrees, has_kernels, expected
):
    monkeypatch.setattr(images, "has_kernels", lambda _device: has_kernels)
    train, hyp = TrainSpec(augment_device=augment_device), Hyperparameters(degrees=degrees)
    assert images.augments_on(torch.device(device), train, hyp) == expected


def test_rect_makes_rectangular_batches(data, tmp_path):
    training = built(data, tmp_path, [], rect=True, imgsz=96).training
    assert {tuple(batch.images.shape[2:]) for batch in training.epoch(0)} == {(64, 96)}


def test_copy_paste_without_polygons_has_warning(data, index, tmp_path):
    emitted: list[AnyEvent] = []
    built(data, tmp_path, emitted, hyp_overrides={"copy_paste": 0.5})
    assert warnings_of(emitted) == ["hyperparameter copy_paste has no effect: no label is a polygon"]
    label = Path(index.paths[0].replace("/images/", "/labels/")).with_suffix(".txt")
    text, emitted = label.read_text(), []
    try:
        label.write_text("0 0.1 0.1 0.9 0.1 0.5 0.9\n")
        built(data, tmp_path, emitted, hyp_overrides={"copy_paste": 0.5})
    finally:
        label.write_text(text)
    assert warnings_of(emitted) == []


def test_unsuitable_anchors_are_replaced_in_model_and_description(data, tmp_path):
    emitted: list[AnyEvent] = []
    made = built(data, tmp_path, emitted, hyp_overrides={"anchors": 2.0})
    (checked,) = [event for event in emitted if isinstance(event, AnchorsChecked)]
    assert checked.are_new and checked.best_possible_recall > 0.9
    assert [len(row) for row in checked.anchors] == [4, 4, 4]
    assert made.description.config["anchors"] == checked.anchors
    for holder in (made.ema.model.head, made.loss):
        assert torch.equal(holder.anchors, made.model.head.anchors)


def test_placeholder_anchors_are_always_replaced(data, tmp_path):
    """The placeholders of 0 to 9 pixels at every level would fit each small box."""
    emitted: list[AnyEvent] = []
    built(data, tmp_path, emitted, hyp_overrides={"anchors": 5.0})
    (checked,) = [event for event in emitted if isinstance(event, AnchorsChecked)]
    areas = torch.tensor(checked.anchors).reshape(-1, 2).prod(dim=1)
    assert checked.are_new and areas[0] > 1 and (areas.diff() >= 0).all()


def test_anchor_count_without_autoanchor_is_refused(data, tmp_path):
    """Also in a model config, which the rules of the spec do not check."""
    rows = msgspec.yaml.decode((resource_directory("configs") / "models" / "yolov5n.yaml").read_bytes())
    model = tmp_path / "own.yaml"
    model.write_bytes(msgspec.yaml.encode({**rows, "anchors": 4}))
    with pytest.raises(TrainingError, match=r"own\.yaml has 4 anchors a level that are still to be fitted"):
        built(data, tmp_path, [], model=str(model), autoanchor=False)


@pytest.mark.parametrize(
    ("layers", "frozen"), [(0, set()), (3, {0, 1, 2}), ([9, 24], {9, 24}), (24, set(range(24)))], ids=str
)
def test_frozen_layers_have_no_gradients_and_update_statistics(data, tmp_path, layers, frozen):
    model = built(data, tmp_path, [], freeze=layers).model
    with_weights = [(index, list(layer.parameters())) for index, layer in enumerate(model.model)]
    frozen_layers = {index for index, weights in with_weights if weights and not any(w.requires_grad for w in weights)}
    assert frozen_layers == {index for index in frozen if with_weights[index][1]}
    before = model.model[0].bn.running_mean.clone()
    model.train()(torch.rand(1, 3, IMGSZ, IMGSZ))
    assert not torch.equal(model.model[0].bn.running_mean, before)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (26, "the first 26 layers are to be frozen, and the model has 25 layers, 0 to 24"),
        (99, "the first 99 layers are to be frozen"),
        ([3, 40], "there is no layer 40: the model has 25 layers, 0 to 24"),
        ([25, 30], "there is no layer 25, 30"),
        (25, "no trainable layer is left"),
        (list(range(25)), "no trainable layer is left"),
        ([index for index in range(25) if index not in (11, 12)], "no trainable layer is left"),
    ],
    ids=str,
)
def test_freeze_of_missing_or_all_layers_is_refused(data, tmp_path, layers, message):
    with pytest.raises(TrainingError, match=f"train.freeze: .*{message}"):
        built(data, tmp_path, [], freeze=layers)


def test_disabled_autoanchor_keeps_anchors(data, tmp_path):
    emitted: list[AnyEvent] = []
    made = built(data, tmp_path, emitted, autoanchor=False, cache="none")
    assert emitted == []
    assert made.description.config["anchors"][0] == [10, 13, 16, 30, 33, 23]


def test_run_without_validation_labels_is_refused(tmp_path):
    """All metrics would be 0, and the first epoch would stay the best."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=2, num_val=2, image_size=(96, 64))
    shutil.rmtree(data.parent / "labels" / "val")
    with pytest.raises(DataError, match=r"val: none of its 2 images has labels; 2 without a label file") as caught:
        built(data, tmp_path, [])
    assert "there is no directory" in caught.value.hint


def test_dataset_warnings_are_emitted_once_per_run(tmp_path):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=4, num_val=2, image_size=(96, 64))
    data.write_text(f"{data.read_text()}test: gone\n")
    (data.parent / "labels" / "train" / "00001.txt").unlink()
    (data.parent / "images" / "val" / "a.heic").touch()
    emitted: list[AnyEvent] = []
    built(data, tmp_path, emitted, autoanchor=False)
    test, unlabelled, skipped = warnings_of(emitted)
    assert "test: " in test and "gone does not exist" in test
    assert unlabelled.startswith("train: 1 of 4 images without objects: 1 without a label file (")
    assert skipped.startswith("val: 1 file skipped")


@dataclasses.dataclass(frozen=True)
class SecondNode(World):
    """Rank 1 on a second node; the numbers of rank 0 are known."""

    first: list[float] = dataclasses.field(default_factory=list)

    def gather_numbers(self, numbers):
        return [self.first or list(numbers), list(numbers)]


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (None, None),
        ("images/train/00000.jpg", "the dataset on b is not that on a: 4 training and 2 .*, and 5 .* images there$"),
        ("labels/train/00000.txt", "on a: 5 training and 2 .*, and 5 .* images there; names, sizes or labels differ$"),
    ],
)
def test_copies_on_nodes_must_have_same_images(data, tmp_path, removed, message):
    indexes, datasets = [], []
    for node in ("one", "two"):
        copy = tmp_path / node / "shapes"
        shutil.copytree(data.parent, copy, ignore=shutil.ignore_patterns("*.npz", "*.lock"))
        if node == "two" and removed is not None:
            (copy / removed).unlink()
        datasets.append(load_dataset(copy / data.name))
        indexes.append(tuple(scan_split(datasets[-1], split) for split in ("train", "val")))
    process = ProcessInfo(1, 0, 1, 2, 1, 2, "127.0.0.1", None, "single")
    hosts = [RankLocation(rank=rank, local_rank=0, node_rank=rank, host=host, pid=1) for rank, host in enumerate("ab")]
    first = SecondNode(process, torch.device("cpu"), tuple(hosts))
    numbers = [n for index in indexes[0] for n in (index.num_images, images._digest(index, datasets[0]))]
    world = dataclasses.replace(first, first=numbers)
    if message is None:
        images.require_same_images(datasets[1], indexes[1], world)
        return
    with pytest.raises(DataError) as caught:
        images.require_same_images(datasets[1], indexes[1], world)
    with pytest.raises(DataError, match=message):
        raise DataError(caught.value.message)
