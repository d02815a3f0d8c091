"""Which keys of a dataset YAML a command needs, and keys that say that the labels are for another task."""

import re

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset

HEAD = "names: [a]\n"


@pytest.fixture
def write(tmp_path):
    """A dataset YAML beside one empty directory named p."""
    (tmp_path / "p").mkdir()

    def write_yaml(text: str):
        path = tmp_path / "d.yaml"
        path.write_text(HEAD + text)
        return path

    return write_yaml


@pytest.mark.parametrize(
    ("text", "needed", "messages"),
    [
        ("train: p\nval: p\ntest: gone\n", ("train", "val"), ["test: .*gone is not there; nothing is read from"]),
        ("train: p\nval: p\ntest: [p, gone]\n", ("train", "val"), ["test: .*gone is not there"]),
        ("train: gone\nval: p\n", ("val",), ["train: .*gone is not there"]),
        ("train: gone\nval: p\ntest: gone/too\n", ("val",), ["train: .*gone is", "test: .*gone/too is"]),
        ("train: gone\ntest: p\n", ("test",), ["train: .*gone is not there"]),
        ("val: p\n", ("val",), []),
        ("test: p\n", ("test",), []),
        ("train: p\n", ("train",), []),
        ("train: p\nval: p\n", ("train", "val"), []),
        ("train: p\nval: p\ntest:\n", ("train", "val"), []),
    ],
)
def test_only_splits_that_are_read_must_be_there_and_others_are_a_message(write, text, needed, messages):
    dataset = load_dataset(write(text), needed_splits=needed)
    assert all(dataset.split(name) for name in needed)
    assert len(dataset.messages) == len(messages)
    for message, words in zip(dataset.messages, messages, strict=True):
        assert re.search(rf"d\.yaml: {words}", message)
        assert dataset.split(words.partition(":")[0]) == ()


@pytest.mark.parametrize(
    ("text", "needed", "words"),
    [
        ("train: gone\nval: p\n", ("train", "val"), "train: .*gone is not there"),
        ("train: p\nval: gone\n", ("train", "val"), "val: .*gone is not there"),
        ("train: p\nval: [p, gone]\n", ("val",), "val: .*gone is not there"),
        ("train: p\n", ("train", "val"), "val: is missing"),
        ("train: p\nval: p\n", ("test",), "test: is missing; there is no split test"),
        ("train: p\nval: p\ntest: gone\n", ("test",), "test: .*gone is not there"),
        ("train: p\nval: [p, '']\n", ("train", "val"), "val: '' is no path"),
        ("train: p\nval: {a: p}\n", ("train", "val"), "val: {'a': 'p'} is no path"),
        ("train: p\nval: [[p]]\n", ("train", "val"), r"val: \['p'\] is no path"),
    ],
)
def test_a_split_that_is_read_and_not_there_is_an_error(write, text, needed, words):
    with pytest.raises(DataError, match=rf"d\.yaml: {words}"):
        load_dataset(write(text), needed_splits=needed)


def test_a_home_directory_is_found(write, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_dataset(write("path: ~\ntrain: p\nval: ~/p\n")).val == (tmp_path / "p",)


def test_a_split_with_separators_of_windows_is_found(write, tmp_path):
    (tmp_path / "p" / "q").mkdir()
    assert load_dataset(write("train: p\\q\nval: ..\\p\\q\n")).val == (tmp_path / "p" / "q",)


SPLITS = "train: p\nval: p\n"


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("kpt_shape: [17, 3]\n", (17, 3), "keypoints are not"),
        ("kpt_shape: [4, 2]\nflip_idx: [0, 1, 2, 3]\ntask: pose\n", (4, 2), "keypoints are not"),
        ("task: obb\n", None, "angles are not"),
        ("task: detect\n", None, None),
        ("task: segment\n", None, None),
    ],
)
def test_labels_of_other_tasks_are_said(write, text, shape, words):
    dataset = load_dataset(write(SPLITS + text))
    assert dataset.kpt_shape == shape
    assert [words in message for message in dataset.messages] == ([True] if words else [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: pose\n", "task: pose is for labels with keypoints, and kpt_shape: is missing"),
        ("flip_idx: [0, 2, 1]\n", "flip_idx: is for labels with keypoints"),
        ("kpt_shape: 17\n", "kpt_shape: '17' is not a pair"),
        ("kpt_shape: [17]\n", "kpt_shape: .* is not a pair"),
        ("kpt_shape: [a, 3]\n", "kpt_shape: .* is not a pair"),
        ("kpt_shape: [17, 4]\n", r"kpt_shape: \[17, 4\]: 2 or 3 numbers each"),
        ("kpt_shape: [0, 3]\n", r"kpt_shape: \[0, 3\]"),
        ("task: classify\n", "task: classify: labels without boxes"),
    ],
)
def test_keys_that_cannot_be_meant_for_a_detector_are_refused(write, text, words):
    with pytest.raises(DataError, match=words):
        load_dataset(write(SPLITS + text))
