"""Images that are in a dataset twice: in one split or in two, equal or almost equal."""

import cv2
import numpy as np
import pytest

from hpc_yolo.data.check.duplicates import SeenImages
from hpc_yolo.data.check.looks import look_of
from hpc_yolo.data.drawn_shapes import draw_image

LABELS = np.array([[0, 0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
OTHER_LABELS = LABELS + np.float32(0.1)


def look(number, brighter=0):
    """Return the look of an image; with `brighter` that of the same scene in another file."""
    pixels = draw_image(np.random.default_rng(number), (320, 240))[0]
    pixels = np.asarray(cv2.add(pixels, np.full_like(pixels, brighter)), dtype=np.uint8)
    return look_of(pixels.tobytes(), pixels)


def found(*images):
    """Return the findings about images of (split, name, look[, labels])."""
    seen = SeenImages()
    for split, name, one, *labels in images:
        seen.add(split, name, one, *labels or [LABELS])
    return [(kind, split, item.image, item.other) for kind, split, item in seen.findings()]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([("train", "a", look(1)), ("train", "b", look(2))], []),
        ([("train", "a", look(1)), ("train", "b", look(1))], [("duplicate", "train", "b", "a")]),
        (
            [("train", "a", look(1)), ("train", "b", look(1), OTHER_LABELS)],
            [("contradicting-labels", "train", "b", "a")],
        ),
        ([("train", "a", look(1)), ("train", "b", look(1, 9))], [("near-duplicate", "train", "b", "a")]),
        ([("train", "a", look(1)), ("val", "b", look(1))], [("leak", "val", "b", "a")]),
        ([("train", "a", look(1)), ("val", "b", look(1, 9))], [("near-leak", "val", "b", "a")]),
        (
            [("train", "a", look(1)), ("val", "b", look(1)), ("test", "c", look(1))],
            [("leak", "val", "b", "a"), ("leak", "test", "c", "b")],
        ),
        ([("val", "b", look(1)), ("test", "c", look(1, 9))], [("near-leak", "test", "c", "b")]),
        (
            [("train", "a", look(1)), ("val", "b", look(1)), ("val", "c", look(1))],
            [("leak", "val", "b", "a"), ("duplicate", "val", "c", "b"), ("leak", "val", "c", "a")],
        ),
        (
            [("train", "a", look(1)), ("val", "b", look(1, 9)), ("val", "c", look(1, 9))],
            [("near-leak", "val", "b", "a"), ("duplicate", "val", "c", "b"), ("near-leak", "val", "c", "a")],
        ),
        ([("train", "x", look(3)), ("train", "a", look(1)), ("val", "b", look(2))], []),
    ],
    ids=["different", "equal", "other labels", "near", "leak", "near leak", "3 splits", "test", "both", "all", "none"],
)
def test_later_image_is_reported_with_the_earlier_one(images, expected):
    assert found(*images) == expected


def test_leak_names_the_image_of_each_earlier_split():
    seen = SeenImages()
    for split in ("train", "val", "test"):
        seen.add(split, f"{split}.jpg", look(1), LABELS)
    assert [item.text for *_, item in seen.findings()] == [
        "train.jpg of train",
        "val.jpg of val and train.jpg of train",
    ]


def test_image_of_the_lowest_rank_is_kept_and_its_equals_are_reported():
    seen = SeenImages()
    for name, rank in (("a", 1), ("b", 0), ("c", 0), ("d", 1)):
        seen.add("train", name, look(1), LABELS, rank=rank)
    seen.add("val", "e", look(1), LABELS)
    assert [(kind, item.image, item.other) for kind, _, item in seen.findings()] == [
        ("duplicate", "a", "b"),
        ("duplicate", "c", "b"),
        ("duplicate", "d", "b"),
        ("leak", "e", "b"),
    ]


def test_many_equal_images_are_as_many_findings_less_one():
    images = [("train", str(number), look(1, number % 2)) for number in range(50)]
    assert len(found(*images)) == 49


def test_nearest_image_is_named():
    far, near = look(1, 25), look(1, 3)
    kinds = found(("train", "far", far), ("train", "near", near), ("val", "x", look(1)))
    assert kinds[-1] == ("near-leak", "val", "x", "near" if near.code != far.code else "far")


def test_no_image_has_no_finding():
    assert found() == []
