"""The dataset YAML: which keys and splits a command needs, paths, names, and what reading one must never do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from golden import GOLDEN

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.drawn_shapes import CLASSES
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.synth import write_shapes_dataset

SAMPLE = Path(__file__).parents[2] / "configs" / "data" / "shapes.yaml"
HEAD = "names: [a]\n"
SPLITS = "train: p\nval: p\n"


@pytest.mark.parametrize(
    ("text", "needed", "messages"),
    [
        ("train: p\nval: p\ntest: gone\n", ("train", "val"), ["test: .*gone does not exist; nothing is read from"]),
        ("train: p\nval: p\ntest: [p, gone]\n", ("train", "val"), ["test: .*gone does not exist"]),
        ("train: gone\nval: p\n", ("val",), ["train: .*gone does not exist"]),
        ("train: gone\nval: p\ntest: gone/too\n", ("val",), ["train: .*gone does", "test: .*gone/too does"]),
        ("train: gone\ntest: p\n", ("test",), ["train: .*gone does not exist"]),
        ("val: p\n", ("val",), []),
        ("test: p\n", ("test",), []),
        ("train: p\n", ("train",), []),
        ("train: p\nval: p\n", ("train", "val"), []),
        ("train: p\nval: p\ntest:\n", ("train", "val"), []),
    ],
)
def test_missing_split_that_is_not_needed_is_a_message(write_yaml, text, needed, messages):
    dataset = load_dataset(write_yaml(HEAD + text), needed_splits=needed)
    assert all(dataset.split(name) for name in needed)
    assert len(dataset.messages) == len(messages)
    for message, expected in zip(dataset.messages, messages, strict=True):
        assert re.search(rf"d\.yaml: {expected}", message)
        assert dataset.split(expected.partition(":")[0]) == ()


@pytest.mark.parametrize(
    ("text", "needed", "expected"),
    [
        ("train: gone\nval: p\n", ("train", "val"), "train: .*gone does not exist"),
        ("train: p\nval: gone\n", ("train", "val"), "val: .*gone does not exist"),
        ("train: p\nval: [p, gone]\n", ("val",), "val: .*gone does not exist"),
        ("train: p\n", ("train", "val"), "val: is missing"),
        ("train: p\nval: p\n", ("test",), "test: is missing; there is no split test"),
        ("train: p\nval: p\ntest: gone\n", ("test",), "test: .*gone does not exist"),
        ("train: p\nval: [p, '']\n", ("train", "val"), "val: '' is not a path"),
        ("train: p\nval: {a: p}\n", ("train", "val"), "val: {'a': 'p'} is not a path"),
        ("train: p\nval: [[p]]\n", ("train", "val"), r"val: \['p'\] is not a path"),
    ],
)
def test_missing_split_that_is_needed_is_an_error(write_yaml, text, needed, expected):
    with pytest.raises(DataError, match=rf"d\.yaml: {expected}"):
        load_dataset(write_yaml(HEAD + text), needed_splits=needed)


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_unusable_dataset_is_an_error_with_its_cause(write_yaml, text, expected):
    path = write_yaml(text or "")
    if text is None:
        path.unlink()
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    assert expected in str(caught.value)
    assert "d.yaml" in str(caught.value)


def test_home_directory_is_expanded(write_yaml, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_dataset(write_yaml(HEAD + "path: ~\ntrain: p\nval: ~/p\n")).val == (tmp_path / "p",)


def test_split_with_separators_of_windows_is_found(write_yaml, tmp_path):
    (tmp_path / "p" / "q").mkdir()
    assert load_dataset(write_yaml(HEAD + "train: p\\q\nval: ..\\p\\q\n")).val == (tmp_path / "p" / "q",)


def test_path_is_relative_to_the_yaml_or_else_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here" / "data" / "p").mkdir(parents=True)
    (tmp_path / "yamls").mkdir()
    path = tmp_path / "yamls" / "d.yaml"
    path.write_text("path: data\ntrain: p\nval: p\nnames: [a]\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load_dataset(path).train[0].samefile(tmp_path / "here" / "data" / "p")
    (tmp_path / "yamls" / "data" / "p").mkdir(parents=True)
    assert load_dataset(path).train[0].samefile(tmp_path / "yamls" / "data" / "p")


@pytest.mark.parametrize(
    ("is_above", "split"), [(False, "set/p"), (True, "p")], ids=["beside the YAML", "a directory higher"]
)
def test_split_written_a_directory_too_high_is_found(tmp_path, is_above, split):
    """Roboflow's exports write ../train/images for a directory beside the YAML."""
    (tmp_path / "set" / "p").mkdir(parents=True)
    if is_above:
        (tmp_path / "p").mkdir()
    path = tmp_path / "set" / "d.yaml"
    path.write_text("train: ../p\nval: p\nnames: [a]\n")
    assert load_dataset(path).train[0].samefile(tmp_path / split)


def test_split_that_is_nowhere_is_named_as_written(write_yaml):
    with pytest.raises(DataError, match=r"train: .*\.\./nowhere does not exist"):
        load_dataset(write_yaml("train: ../nowhere\nval: p\nnames: [a]\n"))


@pytest.mark.parametrize("names", ["[a, b]", "{0: a, 1: b}"])
def test_names_are_a_list_or_numbered(write_yaml, tmp_path, names):
    dataset = load_dataset(write_yaml(f"train: p\nval: [p, p]\nnames: {names}\n"))
    assert (dataset.names, dataset.num_classes) == (("a", "b"), 2)
    assert dataset.val == (tmp_path / "p",) * 2
    assert dataset.test == ()


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("[yes, no, off, on]", ("yes", "no", "off", "on")),
        ("[007, 1e3, 1.0]", ("007", "1e3", "1.0")),
        ("{0: no, 1: null}", ("no", "null")),
        ("{'1': b, '0': a}", ("a", "b")),
    ],
)
def test_names_are_as_written_and_not_as_yaml_converts_them(write_yaml, written, names):
    assert load_dataset(write_yaml(f"{SPLITS}names: {written}\n")).names == names


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{0: a, x: b}", "neither a list of names nor numbers"),
        ("{0: a, 2: b}", "neither a list of names nor numbers"),
        ("{0: a, 0: b}", "a key is written twice"),
        ("[a]\nnames: [b]", "a key is written twice"),
    ],
)
def test_names_that_are_no_list_are_refused(write_yaml, written, expected):
    with pytest.raises(DataError, match=expected):
        load_dataset(write_yaml(f"{SPLITS}names: {written}\n"))


def test_numbered_names_are_in_the_order_of_their_numbers(write_yaml):
    names = GOLDEN["coco80_names"]
    numbered = "".join(f"  {number}: {name}\n" for number, name in reversed(list(enumerate(names))))
    dataset = load_dataset(write_yaml(f"train: p\nval: p\ntest:\nnames:\n{numbered}"))
    assert list(dataset.names) == names
    assert dataset.test == ()


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_empty_key_is_like_a_missing_one(write_yaml, tmp_path, value):
    dataset = load_dataset(write_yaml(f"{SPLITS}names: [a]\npath: {value}\ntest: {value}\n"))
    assert (dataset.test, dataset.train) == ((), (tmp_path / "p",))


@pytest.mark.parametrize(
    ("names", "expected"), [("[cat, dog]", ("item",)), ("[ship]", ("ship",))], ids=["several", "one"]
)
def test_single_cls_is_called_item_unless_there_is_one_name(write_yaml, names, expected):
    dataset = load_dataset(write_yaml(f"{SPLITS}names: {names}\n"), single_cls=True)
    assert (dataset.names, dataset.num_classes) == (expected, 1)


@pytest.mark.parametrize(("more", "is_message"), [("nc: 3\n", True), ("nc: 2\n", False), ("", False), ("nc:\n", False)])
def test_nc_that_contradicts_the_names_is_a_message(write_yaml, tmp_path, more, is_message):
    dataset = load_dataset(write_yaml(f"{SPLITS}names: [cat, dog]\n{more}"))
    assert dataset.num_classes == 2
    message = f"{tmp_path}/d.yaml: nc: 3 is not the number of names, 2; the names are used"
    assert dataset.messages == ((message,) if is_message else ())


@pytest.mark.parametrize(
    "text",
    [
        "train: !!python/object/apply:os.mkdir [{directory}/made]\nval: p\nnames: [a]\n",
        "train: p\nval: nowhere\nnames: [a]\ndownload: mkdir {directory}/made\n",
        "train: p\nval: nowhere\nnames: [a]\ndownload: |\n  import os\n  os.mkdir('{directory}/made')\n",
    ],
    ids=["tag", "bash", "python"],
)
def test_reading_a_dataset_runs_nothing_that_is_written_in_it(write_yaml, tmp_path, text):
    """Dataset files are passed around; the original executes what their download key says."""
    with pytest.raises(DataError):
        load_dataset(write_yaml(text.replace("{directory}", str(tmp_path))))
    assert not (tmp_path / "made").exists()


def test_download_is_ignored_where_the_images_exist(write_yaml):
    path = write_yaml("train: p\nval: p\nnames: [a]\nnc: 80\ndownload: https://example.org/set.zip\n")
    assert load_dataset(path).num_classes == 1, "names count, as published; nc is ignored"


def test_dataset_is_read_without_torch_opencv_and_numpy(write_yaml):
    """Together they take seconds to import, and preflight runs before every submit."""
    path = write_yaml("train: p\nval: p\nnames: [a]\n")
    program = (
        "import sys; from pathlib import Path; from hpc_yolo.data.dataset import load_dataset\n"
        "load_dataset(Path(sys.argv[1])); print(sorted({'torch', 'cv2', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sample_yaml_describes_the_drawn_set(tmp_path, monkeypatch):
    """configs/data/shapes.yaml and what `data synth` writes say the same in two places."""
    drawn = load_dataset(write_shapes_dataset(tmp_path / "datasets" / "shapes", num_train=1, num_val=1))
    monkeypatch.chdir(tmp_path)
    sample = load_dataset(SAMPLE)
    assert sample.names == drawn.names == CLASSES
    for split in ("train", "val"):
        assert find_images(sample.split(split)).paths == find_images(drawn.split(split)).paths
