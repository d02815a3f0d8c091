"""Datasets as people bring them: what is read, what is refused by name, and what is left out with a warning."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from waiting import PATIENCE_S

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import scan as scan_module
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_files import label_path
from hpc_yolo.data.formats.yolo_labels import read_labels
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.scan import scan_split


@pytest.fixture
def make_set(tmp_path):
    """A dataset of noise images: name -> text of its label file, or None for no file."""

    def make(**labels: str | None) -> Path:
        directory = tmp_path / "set"
        for kind in ("images", "labels"):
            (directory / kind / "train").mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for name, text in labels.items():
            pixels = random.integers(0, 256, size=(40, 60, 3), dtype=np.uint8)
            cv2.imwrite(str(directory / "images" / "train" / f"{name}.jpg"), pixels)
            if text is not None:
                (directory / "labels" / "train" / f"{name}.txt").write_text(text)
        path = directory / "dataset.yaml"
        path.write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
        return path

    return make


def test_names_may_be_a_list_or_numbered(tmp_path):
    (tmp_path / "images").mkdir()
    for names in ("[a, b]", "{0: a, 1: b}"):
        path = tmp_path / "d.yaml"
        path.write_text(f"train: images\nval: [images, images]\nnames: {names}\n")
        dataset = load_dataset(path)
        assert (dataset.names, dataset.num_classes) == (("a", "b"), 2)
        assert dataset.val == (tmp_path / "images",) * 2
        assert dataset.test == ()


def test_path_is_beside_the_yaml_or_else_below_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here" / "data" / "p").mkdir(parents=True)
    (tmp_path / "yamls").mkdir()
    path = tmp_path / "yamls" / "d.yaml"
    path.write_text("path: data\ntrain: p\nval: p\nnames: [a]\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load_dataset(path).train[0].samefile(tmp_path / "here" / "data" / "p")
    (tmp_path / "yamls" / "data" / "p").mkdir(parents=True)
    assert load_dataset(path).train[0].samefile(tmp_path / "yamls" / "data" / "p")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no dataset"),
        ("train: [", "is not YAML"),
        ("just words", "holds no keys"),
        ("train: p\nval: p\n", "names: is missing"),
        ("val: p\nnames: [a]\n", "train: is missing"),
        ("train: p\nval: p\nnames: {1: a, 3: b}\n", "neither a list of names nor numbers"),
        ("train: p\nval: nowhere\nnames: [a]\n", "val: "),
        ("train: nowhere\nval: p\nnames: [a]\ndownload: rm -rf /\n", "which is never run here"),
    ],
)
def test_a_dataset_that_cannot_be_used_says_why(tmp_path, text, words):
    (tmp_path / "p").mkdir()
    path = tmp_path / "d.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    assert words in str(caught.value)
    assert "d.yaml" in str(caught.value)


def test_a_list_names_images_from_its_own_directory(make_set):
    dataset = make_set(one="", two="")
    listed = dataset.parent / "list.txt"
    listed.write_text("./images/train/two.jpg\n\n")
    assert [path.name for path in find_images((listed,)).paths] == ["two.jpg"]
    with pytest.raises(DataError, match="no images in"):
        find_images((dataset.parent / "labels",))


def test_the_last_directory_named_images_becomes_labels():
    assert label_path(Path("/images/a/images/train/x.jpg")) == Path("/images/a/labels/train/x.txt")
    assert label_path(Path("/a/images.jpg")) == Path("/a/images.txt")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2; the 2 classes are 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 columns; 5 are needed"),
        ("0 0.5 0.5", "3 columns"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 columns"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 inf 0.5 0.1 0.1", "not finite"),
        ("0 1.7 0.5 0.1 0.1", "coordinate 1.7; coordinates are fractions of the image, 0 to 1"),
        ("0 0.5 -0.5 0.1 0.1", "coordinate -0.5"),
        ("cat 0.5 0.5 0.1 0.1", "not a number"),
    ],
)
def test_a_bad_line_is_named_with_what_is_allowed(tmp_path, line, words):
    path = tmp_path / "x.txt"
    path.write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(ValueError, match=r"x\.txt:2: ") as caught:
        read_labels(path, num_classes=2)
    assert words in str(caught.value)


def test_boxes_and_polygons_may_share_a_file_and_rows_count_once(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("1 0.5 0.5 0.2 0.2\n0 0.1 0.2 0.5 0.2 0.5 0.8\n\n1 0.5 0.5 0.2 0.2\n")
    expected = [[1, 0.5, 0.5, 0.2, 0.2], [0, 0.3, 0.5, 0.4, 0.6]]
    assert read_labels(path, num_classes=2)[0] == pytest.approx(np.array(expected, dtype=np.float32))


def test_what_is_wrong_is_left_out_and_counted_and_the_rest_is_used(make_set):
    good = "0 0.5 0.5 0.5 0.5\n"
    path = make_set(good=good, missing=None, empty="", badclass="7 0.5 0.5 0.5 0.5\n", cut=good, noise=good, tiny=good)
    images = path.parent / "images" / "train"
    whole = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "noise.jpg").write_bytes(b"\x01" * 100 + b"\xff\xd9")
    cv2.imwrite(str(images / "tiny.jpg"), np.zeros((5, 50, 3), dtype=np.uint8))
    index = scan_split(load_dataset(path), "train")
    assert [Path(name).stem for name in index.paths] == ["empty", "good", "missing"]
    assert (index.num_backgrounds, index.num_corrupt) == (2, 4)
    assert index.shapes_hw.tolist() == [[40, 60]] * 3
    text = "\n".join(index.messages)
    told = ["4 images left out", "badclass.txt:1: class 7", "cut.jpg: the JPEG is cut off", "noise.jpg: cannot"]
    for words in (*told, "tiny.jpg: 50 x 5 pixels"):
        assert words in text
    assert (images / "cut.jpg").read_bytes() == whole[: len(whole) // 2], "a user's image was rewritten"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"one": "9 0.5 0.5 0.1 0.1\n"}, "no image is usable, 1 image left out"),
        ({"one": None, "two": ""}, "none of its 2 images has labels"),
    ],
)
def test_a_split_with_nothing_to_learn_from_is_an_error(make_set, labels, words):
    with pytest.raises(DataError, match=words):
        scan_split(load_dataset(make_set(**labels)), "train")


def test_a_split_that_is_not_there_is_an_error(make_set):
    with pytest.raises(DataError, match="there is no split test"):
        scan_split(load_dataset(make_set(one="")), "test")


def as_plain(index) -> tuple:
    return index.paths, index.shapes_hw.tolist(), [rows.tolist() for rows in index.labels], index.messages


def test_the_cache_spares_the_second_scan_and_notices_a_change(make_set, monkeypatch):
    path = make_set(one="0 0.5 0.5 0.5 0.5\n", two="1 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.1 0.1\n")
    dataset = load_dataset(path)
    first = scan_split(dataset, "train")
    decoded = []
    real = scan_module._image_shape
    monkeypatch.setattr(scan_module, "_image_shape", lambda image: decoded.append(image) or real(image))
    assert as_plain(scan_split(dataset, "train")) == as_plain(first)
    assert decoded == []
    (path.parent / "labels" / "train" / "one.txt").write_text("1 0.25 0.5 0.5 0.5\n")
    assert scan_split(dataset, "train").labels[0][0, 1] == 0.25
    assert len(decoded) == 2


@pytest.mark.parametrize("rubbish", [b"", b"PK\x03\x04 torn", b"\x80\x04not a pickle of ours."])
def test_a_damaged_cache_is_made_anew(make_set, rubbish):
    path = make_set(one="0 0.5 0.5 0.5 0.5\n")
    expected = as_plain(scan_split(load_dataset(path), "train"))
    (cache,) = (path.parent / "labels").glob(".*.npz")
    cache.write_bytes(rubbish)
    assert as_plain(scan_split(load_dataset(path), "train")) == expected


def test_where_no_cache_can_be_written_there_is_none(make_set):
    path = make_set(one="0 0.5 0.5 0.5 0.5\n")
    (path.parent / "labels" / ".train.hpc-yolo.lock").mkdir()  # root may write anywhere, but not here
    assert scan_split(load_dataset(path), "train").num_images == 1
    assert not list((path.parent / "labels").glob(".*.npz"))


def test_two_processes_that_scan_at_once_see_the_same(make_set):
    path = make_set(**{f"n{number}": f"{number % 2} 0.5 0.5 0.{number + 1} 0.5\n" for number in range(8)})
    program = (
        "import json, sys; from pathlib import Path\n"
        "from hpc_yolo.data.dataset import load_dataset; from hpc_yolo.data.scan import scan_split\n"
        "index = scan_split(load_dataset(Path(sys.argv[1])), 'train')\n"
        "print(json.dumps([index.paths, [rows.tolist() for rows in index.labels]]))\n"
    )
    words = [sys.executable, "-c", program, str(path)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (json.loads(process.communicate(timeout=PATIENCE_S)[0]) for process in both)
    assert first == second
    assert len(first[0]) == 8
