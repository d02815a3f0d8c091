"""Conversion between formats: the same labels from each, what is lost is counted, and nothing is written over."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from coco_sets import SQUARE_PIXELS, TRIANGLE_PIXELS, image, one, write_coco
from conversions import converted, indexes
from image_sets import GOOD, add, make_samples, make_set
from packed_sets import pack
from voc_sets import write_voc, xml_file, xml_object

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.convert.convert import convert
from hpc_yolo.data.convert.pixels import box_in_pixels, polygon_in_pixels, whole_pixels
from hpc_yolo.data.convert.source import find_dataset
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.scan import scan_split

ALL = ("yolo", "coco", "voc")


def _by_image(index: ImageIndex) -> list:
    return list(zip(index.labels, index.shapes_hw, strict=True))


@pytest.mark.parametrize("images", ["link", "copy", "none"])
@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_labels_and_samples_are_the_same_bit_for_bit(yolo, tmp_path, kind, images):
    target = converted(yolo, tmp_path / "to", kind, images=images)
    if (kind, images) == ("yolo", "none"):
        (tmp_path / "to" / "images").symlink_to(yolo.parent / "images")
    for before, after in zip(indexes(yolo), indexes(target), strict=True):
        assert [Path(path).name for path in after.paths] == [Path(path).name for path in before.paths]
        assert after.labels.rows.tobytes() == before.labels.rows.tobytes()
        assert after.outlines.points.tobytes() == before.outlines.points.tobytes()
        options = {"mosaic": 1.0, "mixup": 0.5, "copy_paste": 0.5}
        for number in range(len(before.paths)):
            pairs = [make_samples(index, 64, **options).sample(0, number) for index in (before, after)]
            assert [part.tobytes() for part in pairs[0]] == [part.tobytes() for part in pairs[1]]


def test_round_trip_over_coco_gives_the_same_files(yolo, tmp_path):
    there = converted(yolo, tmp_path / "coco", "coco", images="copy")
    back = converted(there, tmp_path / "back", "yolo", images="copy")
    again = converted(back, tmp_path / "again", "coco", images="copy")
    for first, second in ((yolo.parent, back.parent), (there.parent, again.parent)):
        files = sorted(path.relative_to(second) for path in second.rglob("*") if path.suffix in (".txt", ".json"))
        assert files
        for name in files:
            ours, theirs = (directory.joinpath(name).read_text() for directory in (first, second))
            assert (
                [list(map(float, line.split())) for line in ours.splitlines()]
                == [list(map(float, line.split())) for line in theirs.splitlines()]
                if name.suffix == ".txt"
                else ours == theirs
            )


def test_boxes_of_whole_pixels_survive_all_formats(tmp_path):
    objects = [xml_object("dog", (16, 11, 45, 30)), xml_object("cat", (1, 1, 60, 40)), xml_object("cat", (7, 3, 7, 39))]
    write_voc(tmp_path / "voc", {"1": xml_file(*objects), "2": xml_file()})
    source = tmp_path / "voc" / "d.yaml"
    (before, _) = indexes(source)
    for kind in ALL:
        for further in ALL:
            target = converted(source, tmp_path / kind / further, kind)
            found = convert(find_dataset(target), tmp_path / kind / f"{further}-2", further)
            assert found.lost == {}
            after = indexes(Path(found.dataset))[0]
            assert after.labels.rows.tobytes() == before.labels.rows.tobytes(), (kind, further)


def test_what_another_format_cannot_have_is_counted(yolo, tmp_path):
    found = convert(find_dataset(yolo), tmp_path / "voc", "voc")
    num_polygons = sum(int((index.outlines.counts > 0).sum()) for index in indexes(yolo))
    assert found.lost["written as boxes: VOC's format has no polygons"] == num_polygons > 0
    assert found.lost["moved to whole pixels, by at most half of one"] > 0
    for before, after in zip(indexes(yolo), indexes(Path(found.dataset)), strict=True):
        pixels = [labels[:, 1:] * np.tile(shape[::-1], 2) for labels, shape in _by_image(before)]
        moved = [labels[:, 1:] * np.tile(shape[::-1], 2) for labels, shape in _by_image(after)]
        assert max(float(abs(a - b).max(initial=0)) for a, b in zip(pixels, moved, strict=True)) <= 1.0001
    write_coco(tmp_path / "coco", [one(), one(iscrowd=1)])
    crowds = "left out: crowds, which only COCO's format has"
    source = find_dataset(tmp_path / "coco" / "d.yaml")
    assert convert(source, tmp_path / "c1", "yolo").lost == {crowds: 2}, "of two splits"
    assert convert(source, tmp_path / "c2", "coco").lost == {}
    assert len(indexes(tmp_path / "c2" / "dataset.yaml")[0].crowds) == 1


def test_images_with_invalid_labels_are_left_out_and_named(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "good.jpg")
    add(root, "bad.jpg", label="9 0.5 0.5 0.5 0.5")
    add(root, "text.jpg", content=b"text")
    found = convert(find_dataset(root / "d.yaml"), tmp_path / "to", "coco")
    assert found.splits["train"].num_images == 1
    assert found.splits["train"].num_left_out == 2
    assert "bad.txt:1: class 9" in found.problems[0]
    assert "text.jpg: cannot be decoded" in found.problems[1]
    (root / "labels" / "train" / "good.txt").write_text("x")
    with pytest.raises(DataError, match="no image can be converted"):
        convert(find_dataset(root / "d.yaml"), tmp_path / "to2", "coco")
    assert not (tmp_path / "to2").exists()


@pytest.mark.parametrize("kind", ALL)
def test_image_that_cannot_be_copied_is_left_out_and_named(tmp_path, kind):
    root = make_set(tmp_path / "set")
    add(root, "good.jpg")
    (root / "images" / "train" / "zz.jpg").symlink_to("gone.jpg")
    found = convert(find_dataset(root / "d.yaml"), tmp_path / "to", kind, images="copy")
    assert (found.splits["train"].num_images, found.splits["train"].num_left_out) == (1, 1)
    assert found.problems[0].endswith("zz.jpg: cannot be read: No such file or directory")
    assert not list((tmp_path / "to").rglob("zz.*"))


@pytest.mark.parametrize("directory", [".", "../empty"])
def test_empty_working_directory_is_filled(yolo, tmp_path, monkeypatch, directory):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert convert(find_dataset(yolo), Path(directory), "yolo").is_new
    assert {path.name for path in Path.cwd().iterdir()} == {"dataset.yaml", "images", "labels"}
    assert not list(tmp_path.rglob(".*"))
    with pytest.raises(DataError, match="exists and is not empty"):
        convert(find_dataset(yolo), Path(directory), "yolo")


def test_link_to_the_same_dataset_is_accepted_and_kept(yolo, tmp_path):
    """A job converts again, and the directory is a link to another disk."""
    convert(find_dataset(yolo), tmp_path / "to", "yolo")
    (tmp_path / "link").symlink_to("to")
    found = convert(find_dataset(yolo), tmp_path / "link", "yolo", exist_ok=True)
    assert (found.dataset, found.is_new) == (str(tmp_path / "link" / "dataset.yaml"), False)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("target", ["empty", "gone"])
def test_link_is_not_replaced(yolo, tmp_path, target):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(DataError, match=f"link: is a link to {target}"):
        convert(find_dataset(yolo), tmp_path / "link", "yolo", exist_ok=True)
    assert {path.name for path in tmp_path.iterdir()} == {"yolo", "empty", "link"}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("split", ["train", "val"])
def test_split_of_which_nothing_is_left_is_an_error(yolo, tmp_path, split, kind):
    for path in (yolo.parent / "labels" / split).glob("*.txt"):
        path.write_text("9 0.5 0.5 0.5 0.5")
    message = rf"(?s)d\.yaml: {split}: no image can be converted, of 3\n.*{split}1\.txt:1: class 9.*without {split}:"
    with pytest.raises(DataError, match=message):
        convert(find_dataset(yolo), tmp_path / "to", kind)
    assert [path.name for path in tmp_path.iterdir()] == ["yolo"]


def test_boxes_beyond_the_image_are_cut_and_counted(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg", label="0 0.1 0.5 0.4 0.5\n0 0.1 0.5 0.2 0.5\n")
    found = convert(find_dataset(root / "d.yaml"), tmp_path / "to", "coco")
    assert found.lost == {"cut at the edges of the image": 2}
    assert indexes(Path(found.dataset))[0].labels[0].round(6).tolist() == [
        pytest.approx([0, 0.15, 0.5, 0.3, 0.5]),
        pytest.approx([0, 0.1, 0.5, 0.2, 0.5]),
    ]


def test_several_polygons_stay_one_outline(tmp_path):
    write_coco(tmp_path / "coco", [one(bbox=None, segmentation=[TRIANGLE_PIXELS, SQUARE_PIXELS])])
    source = tmp_path / "coco" / "d.yaml"
    target = converted(source, tmp_path / "to", "coco")
    before, after = indexes(source)[0], indexes(target)[0]
    assert after.outlines.points.tobytes() == before.outlines.points.tobytes()
    written = json.loads((tmp_path / "to" / "annotations" / "instances_train.json").read_text())["annotations"][0]
    assert written["area"] == pytest.approx(480 + 36)


def test_packed_set_is_converted_with_copies_of_its_images(yolo, tmp_path):
    pack(yolo, tmp_path / "packed")
    packed = tmp_path / "packed" / "dataset.yaml"
    with pytest.raises(DataError, match="is not a file of its own, but part of a packed set"):
        convert(find_dataset(packed), tmp_path / "to", "yolo")
    target = converted(packed, tmp_path / "to", "yolo", images="copy")
    for before, after in zip(indexes(yolo), indexes(target), strict=True):
        assert np.allclose(after.labels.rows, before.labels.rows, rtol=0, atol=1e-7), (
            "a packed set has single precision"
        )
        assert [Path(path).read_bytes() for path in after.paths] == [Path(path).read_bytes() for path in before.paths]


def test_nothing_is_written_over(yolo, tmp_path):
    directory = tmp_path / "to"
    converted(yolo, directory, "yolo")
    with pytest.raises(DataError, match="to: exists and is not empty"):
        converted(yolo, directory, "yolo")
    assert not convert(find_dataset(yolo), directory, "yolo", exist_ok=True).is_new
    scan_split(load_dataset(directory / "dataset.yaml"), "train")
    assert not convert(find_dataset(yolo), directory, "yolo", exist_ok=True).is_new, "beside the cache of a scan"
    (directory / "labels" / "train" / "train1.txt").write_text(GOOD)
    with pytest.raises(DataError, match=r"has other content: labels/train/train1\.txt differs"):
        convert(find_dataset(yolo), directory, "yolo", exist_ok=True)
    with pytest.raises(DataError, match=r"has other content: .*differs"):
        convert(find_dataset(yolo), directory, "yolo", images="copy", exist_ok=True)
    assert (directory / "labels" / "train" / "train1.txt").read_text() == GOOD
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file: is a file"):
        converted(yolo, tmp_path / "file", "yolo")
    assert {path.name for path in tmp_path.iterdir()} == {"yolo", "to", "file"}, "nothing half-written is left"


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "is the disk full?"),
        (errno.EDQUOT, "is the disk full?"),
        (errno.EACCES, "give another directory"),
        (errno.ENAMETOOLONG, "give another directory"),
    ],
)
def test_failure_leaves_nothing(yolo, tmp_path, monkeypatch, number, hint):
    def fail(*_args):
        raise OSError(number, os.strerror(number), "x")

    monkeypatch.setattr("hpc_yolo.data.convert.convert.YoloTarget.write", fail)
    with pytest.raises(DataError, match=f"cannot be written: {os.strerror(number)}") as caught:
        converted(yolo, tmp_path / "to", "yolo")
    assert caught.value.hint == hint
    assert [path.name for path in tmp_path.iterdir()] == ["yolo"]


def test_objects_of_a_repeated_entry_are_written_once(tmp_path):
    write_coco(tmp_path, [one()], [image(1), image(1)])
    found = convert(find_dataset(tmp_path / "d.yaml"), tmp_path / "to", "yolo")
    assert (tmp_path / "to" / "labels" / "train" / "1.txt").read_text().count("\n") == 1
    assert found.splits["train"].num_objects == 1


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("source", ["coco", "voc"])
def test_image_of_another_shape_than_is_written_is_a_remark(tmp_path, source, kind):
    write_coco(tmp_path / "coco", [one(1), one(2)], [image(1, width=40, height=60), image(2, width=120, height=80)])
    write_voc(tmp_path / "voc", {"1": xml_file(xml_object(), width=40, height=60), "2": xml_file(xml_object())})
    found = convert(find_dataset(tmp_path / source / "d.yaml"), tmp_path / "to", kind)
    remark = "1 of 2 images of another shape than is written: .*1.jpg: written as 40 x 60, and has 60 x 40 pixels"
    assert [bool(re.search(remark, line)) for line in found.remarks].count(True) == 2, "of two splits"


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0.5, 0.5, 0.5, 0.5), [15, 10, 30, 20]),
        ((0.5, 0.5, 1.0, 1.0), [0, 0, 60, 40]),
        ((0.19289063, 0.5, 0.1, 0.5), [8.573438, 10, 6, 20]),
    ],
)
def test_positions_have_the_shortest_decimals(box, pixels):
    assert box_in_pixels(box, 60, 40) == (pixels, False)
    assert polygon_in_pixels((0.5, 0.25, 1.0, 0.0, 0.1, 0.33333333), 60, 40) == [30, 10, 60, 0, 6, 13.3333332]


@pytest.mark.parametrize(
    ("box", "sides", "is_moved"),
    [
        ((0.5, 0.5, 0.5, 0.5), (16, 11, 45, 30), False),
        ((0.5, 0.5, 1.0, 1.0), (1, 1, 60, 40), False),
        ((0.5, 0.5, 0.001, 0.001), (31, 21, 31, 21), True),
        ((0.999, 0.999, 0.002, 0.002), (60, 40, 60, 40), True),
    ],
)
def test_whole_pixels_are_never_empty_and_inside(box, sides, is_moved):
    assert whole_pixels(box, 60, 40) == (sides, is_moved)
