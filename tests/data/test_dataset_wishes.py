"""Options of a dataset: one class for all, directories one level off, a directory that is read-only."""

import stat
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import scan as scan_module
from hpc_yolo.data import scan_cache as cache_module
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.scan import scan_split


@pytest.fixture
def directory(tmp_path):
    """A dataset of two classes as exporters lay it out: <split>/images, <split>/labels."""
    root = tmp_path / "set"
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 60, 3), dtype=np.uint8)
    for split in ("train", "valid"):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        cv2.imwrite(str(root / split / "images" / "x.png"), pixels)
        (root / split / "labels" / "x.txt").write_text("1 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.2 0.2\n")
    write(root, "[cat, dog]")
    return root


def write(root: Path, names: str, *, train: str = "train/images", more: str = "") -> Path:
    path = root / "data.yaml"
    path.write_text(f"train: {train}\nval: valid/images\nnames: {names}\n{more}")
    return path


def test_all_classes_may_be_taken_for_one_and_a_wrong_class_is_still_wrong(directory):
    (directory / "train" / "images" / "bad.png").write_bytes((directory / "train" / "images" / "x.png").read_bytes())
    (directory / "train" / "labels" / "bad.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    dataset = load_dataset(directory / "data.yaml", single_cls=True)
    assert (dataset.names, dataset.num_classes) == (("item",), 1)
    index = scan_split(dataset, "train")
    assert [rows[:, 0].tolist() for rows in index.labels] == [[0, 0]]
    assert index.labels[0][:, 1:] == pytest.approx(np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.2, 0.2]]))
    assert "class 2; the 2 classes are 0 to 1" in index.messages[1]


def test_one_class_keeps_its_own_name(directory):
    assert load_dataset(write(directory, "[ship]"), single_cls=True).names == ("ship",)


def test_one_cache_serves_runs_with_all_classes_and_with_one(directory, monkeypatch):
    scan_split(load_dataset(directory / "data.yaml", single_cls=True), "train")
    monkeypatch.setattr(scan_module, "_scan", lambda *_: pytest.fail("scanned in spite of the cache"))
    for single_cls, classes in ((False, [1, 0]), (True, [0, 0])):
        index = scan_split(load_dataset(directory / "data.yaml", single_cls=single_cls), "train")
        assert index.labels[0][:, 0].tolist() == classes


def test_a_split_that_says_it_is_a_directory_higher_than_it_is(directory):
    """Roboflow's exports say ../train/images for a directory beside the YAML."""
    dataset = load_dataset(write(directory, "[cat, dog]", train="../train/images"))
    assert dataset.train == (directory / "train" / "images",)


def test_a_split_that_really_is_a_directory_higher_is_taken_there(directory):
    there = directory.parent / "train" / "images"
    there.mkdir(parents=True)
    assert load_dataset(write(directory, "[cat, dog]", train="../train/images")).train[0].samefile(there)


def test_a_split_that_is_nowhere_is_named_as_written(directory):
    with pytest.raises(DataError, match=r"train: .*\.\./nowhere is not there"):
        load_dataset(write(directory, "[cat, dog]", train="../nowhere"))


@pytest.mark.parametrize(("more", "is_told"), [("nc: 3\n", True), ("nc: 2\n", False), ("", False), ("nc:\n", False)])
def test_a_number_of_classes_that_contradicts_the_names_is_told(directory, more, is_told):
    dataset = load_dataset(write(directory, "[cat, dog]", more=more))
    assert dataset.num_classes == 2
    assert bool(dataset.messages) is is_told
    if is_told:
        assert dataset.messages == (f"{directory}/data.yaml: nc: 3 is not the number of names, 2; the names count",)


def test_labels_of_a_directory_that_cannot_be_written_are_kept_elsewhere(directory, tmp_path, monkeypatch):
    """A dataset of the whole group, read-only: rank 0 scans, and the others take what it found."""
    (directory / "train" / ".labels.hpc-yolo.lock").mkdir()  # root may write anywhere, but not here
    spare = tmp_path / "run" / "labels-train.npz"
    spare.parent.mkdir()
    dataset = load_dataset(directory / "data.yaml")
    first = scan_split(dataset, "train", spare_cache=spare)
    assert stat.S_ISREG(spare.stat().st_mode)
    monkeypatch.setattr(scan_module, "_scan", lambda *_: pytest.fail("scanned in spite of the cache"))
    again = scan_split(dataset, "train", spare_cache=spare)
    assert (again.paths, again.labels[0].tolist()) == (first.paths, first.labels[0].tolist())


def test_labels_are_kept_elsewhere_where_the_disk_is_full(directory, tmp_path, monkeypatch):
    """The lock can be had and the cache not be written."""
    real = cache_module.write_atomic

    def write_atomic(path, *words, **options):
        if path.is_relative_to(directory):
            raise OSError(28, "No space left on device")
        real(path, *words, **options)

    monkeypatch.setattr(cache_module, "write_atomic", write_atomic)
    scanned, scan = [], scan_module._scan
    monkeypatch.setattr(scan_module, "_scan", lambda *words: scanned.append(1) or scan(*words))
    for _ in range(2):
        scan_split(load_dataset(directory / "data.yaml"), "train", spare_cache=tmp_path / "labels.npz")
    assert scanned == [1]


def test_a_cache_beside_the_labels_is_preferred(directory, tmp_path):
    scan_split(load_dataset(directory / "data.yaml"), "train", spare_cache=tmp_path / "labels.npz")
    assert (directory / "train" / ".labels.hpc-yolo.npz").exists()
    assert not (tmp_path / "labels.npz").exists()
