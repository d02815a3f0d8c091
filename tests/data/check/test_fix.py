"""The corrected copy of a dataset: what it leaves out and changes, and that nothing of the dataset is touched."""

import json
from collections import Counter
from pathlib import Path

import pytest
from image_sets import GOOD, JPEG, add, different, scan

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.check.corrections import Corrections
from hpc_yolo.data.check.dataset import check_dataset, open_splits
from hpc_yolo.data.check.fix import plan_fix, require_fixable, write_fix
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_files import label_path
from hpc_yolo.data.scan import scan_split


def planned(root, *splits):
    """Return (the dataset in `root`, the plan of its copy)."""
    dataset = load_dataset(root / "d.yaml", needed_splits=splits)
    opened, corrections = open_splits(dataset, splits), Corrections()
    check_dataset(dataset, opened, imgsz=640, corrections=corrections)
    return dataset, plan_fix(dataset, opened.readers, corrections)


def fixed(root, *splits):
    """Write the copy of the dataset in `root` beside it, and return its dataset."""
    dataset, fixes = planned(root, *splits)
    path = write_fix(dataset, dataset.source, fixes, root.parent / "fixed")
    return load_dataset(path, needed_splits=splits)


def state_of(root):
    """Return what is known of each file and directory below `root`, but for the time of its last use."""
    found = {path: path.lstat() for path in root.rglob("*")}
    return {
        path: (one.st_mode, one.st_ino, one.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path, one in found.items()
    }


@pytest.fixture
def dirty(directory):
    """A dataset with everything that a copy corrects, in train."""
    add(directory, "cut.jpg", JPEG[: len(JPEG) // 2])
    add(directory, "same.jpg")
    add(directory, "other.jpg", label="1 0.5 0.5 0.5 0.5\n")
    add(directory, "bytes.png", different(1))
    (directory / "labels" / "train" / "bytes.txt").write_bytes(b"\xff\xfe0\x00")
    add(directory, "lines.png", different(2), label="9 0.5 0.5 0.1 0.1\n1 1.02 0.5 0.2 0.2\n" + GOOD + GOOD)
    add(directory, "boxes.png", different(3), label="0 0.9 0.5 0.4 0.2\n0 0.5 0.5 0 0.1\n0   0.5 0.5 0.5 0.50\n")
    add(directory, "missing.png", different(4), label=None)
    add(directory, "empty.png", different(5), label="")
    return directory


def test_copy_leaves_out_images_and_corrects_lines(dirty):
    _, fixes = planned(dirty, "train")
    assert fixes["train"].left_out == Counter(
        {"unusable-image": 1, "duplicate": 1, "contradicting-labels": 1, "unreadable-labels": 1}
    )
    assert fixes["train"].lines == Counter({"clipped": 2, "invalid-label": 1, "repeated-box": 1, "no-area": 1})
    dataset = fixed(dirty, "train")
    index = scan_split(dataset, "train")
    names = [Path(path).name for path in index.paths]
    assert names == ["boxes.png", "empty.png", "good.jpg", "lines.png", "missing.png"]
    assert (index.num_corrupt, index.num_backgrounds) == (0, 2)
    labels = dataset.source.parent / "labels" / "train"
    assert (labels / "boxes.txt").read_text() == "0 0.85 0.5 0.3 0.2\n0   0.5 0.5 0.5 0.50\n"
    assert (labels / "lines.txt").read_text() == "1 0.96 0.5 0.08 0.2\n" + GOOD
    assert not (labels / "missing.txt").exists() and (labels / "empty.txt").read_text() == ""


def test_check_of_the_copy_has_no_error(dirty):
    dataset = fixed(dirty, "train")
    result = check_dataset(dataset, open_splits(dataset, ["train"]), imgsz=640)
    assert result.is_clean(strict=False)
    assert {finding.kind.name for finding in result.findings} == {"missing-labels", "background"}


def test_dataset_itself_is_unchanged(dirty):
    before = state_of(dirty)
    fixed(dirty, "train")
    assert state_of(dirty) == before


def test_copy_of_a_clean_dataset_has_the_same_samples_and_the_bytes_of_its_labels(directory):
    (directory / "labels" / "train" / "good.txt").write_text("\n 0 0.50 0.5 0.5  0.5 \r\n")
    dataset = fixed(directory, "train", "val")
    copy, index = scan_split(dataset, "train"), scan(directory)
    assert [labels.tolist() for labels in copy.labels] == [labels.tolist() for labels in index.labels]
    assert label_path(Path(copy.paths[0])).read_bytes() == label_path(Path(index.paths[0])).read_bytes()
    assert dataset.names == ("cat", "dog")


def test_image_in_two_splits_stays_in_the_later_one(directory):
    (directory / "images" / "val").mkdir()
    (directory / "labels" / "val").mkdir()
    (directory / "images" / "val" / "same.jpg").write_bytes(JPEG)
    add(directory, "x.png", different(1))
    (directory / "d.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    _, fixes = planned(directory, "train", "val")
    assert fixes["train"].left_out == Counter({"leak": 1}) and not fixes["val"].left_out
    assert [image.name for image, _ in fixes["train"].kept] == ["x.png"]


@pytest.fixture
def three_splits(directory):
    """A dataset whose train, val and test have images of their own, and nothing in common."""
    for number, split in enumerate(("train", "val", "test")):
        for part in ("images", "labels"):
            (directory / part / split).mkdir(exist_ok=True)
        add_to(directory, split, "own.png", different(10 + number))
    (directory / "d.yaml").write_text("train: images/train\nval: images/val\ntest: images/test\nnames: [cat, dog]\n")
    return directory


def add_to(root, split, name, content, label=GOOD):
    """Add an image to a split; `label`: text or bytes of its label file, None for none."""
    (root / "images" / split / name).write_bytes(content)
    if label is not None:
        path = root / "labels" / split / Path(name).with_suffix(".txt")
        path.write_bytes(label if isinstance(label, bytes) else label.encode())


def test_image_in_three_splits_stays_in_the_last_one(three_splits):
    for split in ("train", "val", "test"):
        add_to(three_splits, split, f"{split}.png", different(1))
    _, fixes = planned(three_splits, "train", "val", "test")
    kept = {split: [image.name for image, _ in fix.kept] for split, fix in fixes.items()}
    assert kept == {"train": ["good.jpg", "own.png"], "val": ["own.png"], "test": ["own.png", "test.png"]}


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        ([("train", "a.png", b"\xff"), ("train", "b.png", GOOD)], "b.png"),
        ([("train", "a.png", GOOD), ("val", "b.png", b"\xff")], "a.png"),
        ([("train", "a.png", None), ("train", "b.png", GOOD), ("train", "c.png", GOOD)], "b.png"),
        ([("train", "a.png", "7 1 1 1 1\n"), ("train", "b.png", GOOD)], "b.png"),
        ([("train", "a.png", ""), ("train", "b.png", GOOD)], "a.png"),
        ([("train", "a\nb.png", GOOD), ("train", "b.png", None)], "b.png"),
        ([("train", "a.png", GOOD), ("val", "a\nb.png", GOOD)], "a.png"),
        ([("train", "a.png", GOOD), ("train", "b.png", GOOD), ("val", "c.png", None)], "c.png"),
    ],
    ids=["unreadable", "unreadable in val", "missing", "invalid", "empty", "line break", "line break in val", "leak"],
)
def test_one_of_several_copies_of_an_image_is_kept(three_splits, copies, expected):
    for split, name, label in copies:
        add_to(three_splits, split, name, different(1), label)
    _, fixes = planned(three_splits, "train", "val", "test")
    names = [image.name for fix in fixes.values() for image, _ in fix.kept]
    assert sorted(set(names) - {"good.jpg", "own.png"}) == [expected]


def test_split_that_is_also_another_one_is_not_emptied(directory):
    _, fixes = planned(directory, "train", "val")
    assert [len(fix.kept) for fix in fixes.values()] == [1, 1]


def test_images_in_several_directories_have_labels_in_the_copy(directory):
    """The link of none is called images, so that no label is looked for, or written, behind a link."""
    for number, name in enumerate(("a/images", "b/images", "b/images/c")):
        (directory / "images" / "train" / name).mkdir(parents=True)
        (directory / "images" / "train" / name / "x.png").write_bytes(different(number))
        labels = label_path(directory / "images" / "train" / name / "x.png")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("0 0.9 0.5 0.4 0.2\n")
    before = state_of(directory)
    index = scan_split(fixed(directory, "train"), "train")
    copy = directory.parent / "fixed"
    assert index.num_images == 4 and index.num_backgrounds == 0
    for path in map(Path, index.paths):
        assert label_path(path).resolve().is_relative_to(copy)
    assert state_of(directory) == before


def test_split_that_is_not_copied_is_named_where_it_is(directory):
    dataset = fixed(directory, "train")
    assert dataset.val == (directory / "images" / "train",)


def test_odd_names_of_images_are_kept(directory):
    for number, name in enumerate(("a b.png", "#c.png", "d's, e.png", "ä\u0308.png", "\udcff.png")):
        add(directory, name, different(number))
    assert scan_split(fixed(directory, "train"), "train").num_images == 6


def test_name_that_a_list_cannot_have_is_left_out(directory):
    add(directory, "a\nb.png", different(1))
    _, fixes = planned(directory, "train")
    assert fixes["train"].left_out == Counter({"line-break-in-name": 1})
    assert len(fixes["train"].kept) == 1


@pytest.mark.parametrize("kind", ["file", "link", "content"])
def test_directory_that_is_not_new_is_refused(directory, kind):
    target = directory.parent / "fixed"
    if kind == "file":
        target.write_text("x")
    elif kind == "link":
        target.symlink_to(directory)
    else:
        target.mkdir()
        (target / "x").touch()
    dataset = load_dataset(directory / "d.yaml")
    with pytest.raises(DataError, match=r"is not a directory|has content"):
        require_fixable(dataset, dataset.source, open_splits(dataset, ["train"]).readers, target)
    empty = directory.parent / "empty"
    empty.mkdir()
    require_fixable(dataset, dataset.source, open_splits(dataset, ["train"]).readers, empty)


def test_labels_of_another_format_are_refused(directory):
    content = {
        "images": [{"id": 1, "file_name": "good.jpg", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 0, "area": 81}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (directory / "coco.json").write_text(json.dumps(content))
    (directory / "d.yaml").write_text("format: coco\ntrain: coco.json\nval: coco.json\nimages: images/train\n")
    dataset = load_dataset(directory / "d.yaml")
    with pytest.raises(DataError, match="corrects label files in the YOLO layout"):
        require_fixable(dataset, dataset.source, open_splits(dataset, ["train"]).readers, directory.parent / "fixed")


@pytest.mark.parametrize(
    ("name", "error", "expected", "text"),
    [
        ("shutil.copyfile", OSError(28, "No space left on device"), DataError, "cannot be written: No space left"),
        ("os.sendfile", OSError(28, "No space left on device"), DataError, r"\.fixed\..*/good\.txt: cannot"),
        ("shutil.copyfile", KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_interrupted_copy_leaves_nothing(directory, monkeypatch, name, error, expected, text):
    dataset, fixes = planned(directory, "train")

    def fail(*_):
        raise error

    monkeypatch.setattr(name, fail)
    with pytest.raises(expected, match=text):
        write_fix(dataset, dataset.source, fixes, directory.parent / "fixed")
    assert list(directory.parent.iterdir()) == [directory]
