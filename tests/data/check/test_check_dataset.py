"""The check of a dataset: the same usable images as a scan, every finding with its location, nothing ends it."""

import json

import numpy as np
import pytest
from image_sets import GOOD, JPEG, add, different, encoded, scan

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import augment
from hpc_yolo.data.check import dataset as checked_dataset
from hpc_yolo.data.check import kinds
from hpc_yolo.data.check import result as results
from hpc_yolo.data.check.dataset import check_dataset, open_splits
from hpc_yolo.data.check.image import check_image
from hpc_yolo.data.check.kinds import KINDS, SEVERITIES
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.scan import scan_split


def check(root, *splits, needed=("train",), **options):
    """Check splits of the dataset in `root`, by default train."""
    dataset = load_dataset(root / "d.yaml", needed_splits=needed)
    return check_dataset(dataset, open_splits(dataset, splits or ("train",)), imgsz=640, **options)


def found(result):
    """Return (kind, count, location and text of the first finding) of each."""
    return {
        finding.kind.name: (finding.count, finding.items[0].where, finding.items[0].text) for finding in result.findings
    }


@pytest.fixture
def dirty(directory):
    """A dataset with something of everything."""
    add(directory, "cut.jpg", JPEG[: len(JPEG) // 2], label="x\n")
    add(directory, "page.jpg", b"<!doctype html>")
    add(directory, "same.jpg", label="0 0.2 0.2 0.1 0.1\n")
    add(directory, "open.jpg", different(7, ".jpg").removesuffix(b"\xff\xd9"))
    add(directory, "empty.png", different(1), label="")
    add(directory, "missing.png", different(2), label=None)
    add(directory, "lines.png", different(3), label="7 0.5 0.5 0.1 0.1\n\n0 0.5 0.5\n" + GOOD)
    add(directory, "boxes.png", different(4), label="0 0.9 0.5 0.4 0.2\n0 0.9 0.5 0.4 0.2\n0 0.5 0.5 0 0.1\n")
    add(directory, "near.png", different(5), label=None)
    (directory / "labels" / "train" / "near.TXT").write_text(GOOD)
    add(directory, "bytes.png", different(6))
    (directory / "labels" / "train" / "bytes.txt").write_bytes(b"\xff\xfe0\x00")
    (directory / "images" / "train" / "link.jpg").symlink_to("/gone.jpg")
    return directory


def test_each_finding_has_its_location(dirty):
    images, labels = dirty / "images" / "train", dirty / "labels" / "train"
    assert found(check(dirty)) == {
        "unusable-image": (3, f"{images}/cut.jpg", f"the JPEG is cut off (no end mark in {len(JPEG) // 2} bytes)"),
        "invalid-label": (3, f"{labels}/cut.txt:1", "'x' holds something that is not a number"),
        "unreadable-labels": (2, f"{labels}/bytes.txt", "is not text (byte 0)"),
        "contradicting-labels": (1, f"{images}/same.jpg", f"as {images}/good.jpg"),
        "missing-labels": (2, f"{images}/link.jpg", ""),
        "class-without-objects": (1, "dog", ""),
        "beyond-frame": (2, f"{labels}/boxes.txt:1", "by 6 pixels of 60 x 40"),
        "no-area": (1, f"{labels}/boxes.txt:3", "0.0 x 4.0 pixels"),
        "repeated-box": (1, f"{labels}/boxes.txt:2", ""),
        "background": (1, f"{images}/empty.png", ""),
        "no-end-mark": (1, f"{images}/open.jpg", ""),
    }


def test_usable_images_and_objects_are_those_of_a_scan(dirty):
    index, split = scan(dirty), check(dirty).splits["train"]
    assert (split.num_usable, split.num_backgrounds) == (index.num_images, index.num_backgrounds)
    assert split.num_images - split.num_usable == index.num_corrupt
    assert split.num_objects == sum(map(len, index.labels)) == sum(split.class_counts)
    assert split.most_objects == max(map(len, index.labels))


def test_labels_of_unusable_images_are_checked_too(directory):
    add(directory, "x.jpg", b"no image", label="5 0.5 0.5 0.1 0.1\n")
    result = check(directory)
    assert [finding.kind.name for finding in result.findings][:2] == ["unusable-image", "invalid-label"]
    assert result.num_left_out == 1


def test_clean_dataset_has_only_findings_about_classes(directory):
    result = check(directory)
    assert list(found(result)) == ["class-without-objects"]
    assert result.is_clean(strict=False) and not result.is_clean(strict=True)
    add(directory, "x.png", different(1), label=GOOD.replace("0 ", "1 ", 1))
    assert check(directory).is_clean(strict=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("no image", ("split", "val", "no images in")),
        ("no label", ("no-labels", "val", "there is no directory")),
        ("list", ("unlisted-image", "val", "gone.jpg does not exist")),
    ],
)
def test_problem_of_a_whole_split_is_a_finding_beside_the_others(directory, change, expected):
    (directory / "images" / "val").mkdir()
    (directory / "d.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    if change != "no image":
        (directory / "images" / "val" / "x.png").write_bytes(different(1))
    if change == "list":
        (directory / "list.txt").write_text("images/val/x.png\nimages/val/gone.jpg\n")
        (directory / "d.yaml").write_text("train: images/train\nval: list.txt\nnames: [cat]\n")
    result = check(directory, "train", "val", needed=("train", "val"))
    kind, split, text = expected
    finding = next(finding for finding in result.findings if finding.kind.name == kind)
    assert (finding.split, finding.kind.severity) == (split, "error") and text in finding.items[0].text
    assert result.splits["train"].num_usable == 1


def test_dataset_without_a_readable_split_is_an_error(directory):
    (directory / "images" / "val").mkdir()
    (directory / "d.yaml").write_text("train: images/val\nnames: [cat]\n")
    with pytest.raises(DataError, match="no images in"):
        check(directory)


def test_split_for_tests_needs_no_labels(directory):
    (directory / "images" / "test").mkdir()
    (directory / "images" / "test" / "x.png").write_bytes(different(1))
    (directory / "d.yaml").write_text("train: images/train\ntest: images/test\nnames: [cat]\n")
    assert list(found(check(directory, "train", "test"))) == ["missing-labels"]


def test_remarks_on_the_dataset_and_its_splits_are_findings(directory):
    (directory / "d.yaml").write_text("train: images/train\nnames: [cat]\nnc: 3\n")
    (directory / "images" / "train" / "x.heic").write_bytes(b"x")
    result = check(directory)
    assert [(finding.split, finding.items[0].text[:17]) for finding in result.findings] == [
        ("", "nc: 3 is not the "),
        ("train", "1 file skipped, O"),
    ]


def test_each_image_is_read_once(directory, monkeypatch):
    """Of 236,000 small files on a parallel file system every open counts."""
    for number in range(3):
        add(directory, f"{number}.png", different(number))
    read = []
    monkeypatch.setattr("hpc_yolo.data.check.image.read_content", lambda path: read.append(path) or read_content(path))
    check(directory)
    assert sorted(read) == sorted(map(str, (directory / "images" / "train").iterdir()))


def test_remarks_of_a_format_are_findings(directory):
    content = {
        "images": [{"id": 1, "file_name": "good.jpg", "width": 30, "height": 40}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 0, "area": 81},
            {"id": 2, "image_id": 1, "category_id": 7, "bbox": [1, 1, 9, 9], "iscrowd": 0, "area": 81},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    text = "format: coco\ntrain: coco.json\nimages: images/train\n"
    (directory / "d.yaml").write_text(text)
    (directory / "coco.json").write_text(json.dumps(content))
    invalid = found(check(directory))["invalid-label"]
    assert invalid[:2] == (1, f"{directory}/coco.json: annotations[1]") and "category_id 7" in invalid[2]
    content["annotations"].pop()
    (directory / "coco.json").write_text(json.dumps(content))
    result = check(directory)
    assert list(found(result)) == ["remark"] and "30 x 40" in found(result)["remark"][2]


def test_sizes_are_of_the_smallest_median_and_largest_image(directory):
    for number, side in enumerate((20, 30, 200)):
        add(directory, f"{number}.png", encoded(".png", different_pixels(side)))
    sizes = check(directory).splits["train"].sizes
    assert (sizes.smallest, sizes.median, sizes.largest, sizes.num_different) == ((20, 20), (30, 30), (200, 200), 4)


def different_pixels(side):
    return np.random.default_rng(side).integers(0, 256, size=(side, side, 3), dtype=np.uint8)


def test_result_is_independent_of_the_number_of_threads(dirty):
    results_of = [check(dirty, num_threads=number).as_json() | {"seconds": 0} for number in (1, 5)]
    assert results_of[0] == results_of[1]


def test_progress_is_reported_once_for_every_image_of_all_splits(directory):
    for number in range(40):
        add(directory, f"{number}.png", label=None)
    calls = []
    check(directory, "train", "val", num_threads=1, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 82) for done in range(1, 83)]


def test_ctrl_c_ends_the_check_without_reading_the_rest(directory, monkeypatch):
    num_images = 200
    for number in range(num_images):
        add(directory, f"{number}.png", label=None)
    read = []
    monkeypatch.setattr(
        checked_dataset, "check_image", lambda image, *rest: read.append(image) or check_image(image, *rest)
    )

    def interrupt(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(directory, num_threads=2, on_progress=interrupt)
    assert len(read) <= 2 * checked_dataset.WAITING_PER_THREAD


def test_findings_beyond_the_limit_are_counted_only(directory, monkeypatch):
    monkeypatch.setattr(results, "MAX_ITEMS", 3)
    add(directory, "x.png", different(1), label="9 0.5 0.5 0.1 0.1\n" * 8)
    finding = check(directory).findings[0]
    assert (finding.count, len(finding.items)) == (8, 3)


def test_json_has_every_finding_and_errors_come_first(dirty):
    content = json.loads(json.dumps(check(dirty).as_json()))
    severities = [SEVERITIES.index(finding["severity"]) for finding in content["findings"]]
    assert severities == sorted(severities)
    assert content["errors"] == 8 and content["images_left_out"] == 6
    assert content["findings"][1]["items"][1] == {
        "where": f"{dirty}/labels/train/lines.txt:1",
        "text": "class 7; the 2 classes are 0 to 1",
        "image": f"{dirty}/images/train/lines.png",
    }
    assert content["splits"]["train"]["class_counts"][1] == {"name": "dog", "objects": 0}


def test_scan_and_check_share_the_limit_of_tiny_boxes():
    assert kinds.MIN_SIDE_PIXELS == augment.MIN_SIDE_PIXELS
    assert all(kind.meaning and kind.severity in SEVERITIES for kind in KINDS.values())


def test_check_writes_nothing_beside_the_labels(directory):
    before = sorted(directory.rglob("*"))
    check(directory)
    assert sorted(directory.rglob("*")) == before
    scan_split(load_dataset(directory / "d.yaml"), "train")
    assert sorted(directory.rglob("*")) != before
