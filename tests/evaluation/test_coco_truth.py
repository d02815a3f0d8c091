"""COCO's annotations as other tools write them: matched images, completed fields, and errors before evaluation."""

import json
import unicodedata
from pathlib import PurePosixPath

import pytest
import torch

from hpc_yolo.core.errors import DataError
from hpc_yolo.evaluation import coco
from hpc_yolo.evaluation.coco_truth import match_images, read_annotations

BOXES = [[10.0, 10, 40, 30], [60.0, 20, 20, 20]]


def content(**changes):
    """Return annotations of two images with one object each and two classes; `changes` replace lists."""
    whole = {
        "info": {},
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": n + 1, "image_id": 7 + n, "category_id": 3, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, box in enumerate(BOXES)
        ],
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def without(*fields, **added):
    """Return the annotations without `fields` and with those `added`."""
    return [{**{k: v for k, v in one.items() if k not in fields}, **added} for one in content()["annotations"]]


def read(tmp_path, whole, names=("cat", "dog"), paths=("images/a.jpg", "images/b.jpg")):
    file = tmp_path / "truth.json"
    file.write_text(whole if isinstance(whole, str) else json.dumps(whole))
    return read_annotations(file, names, paths)


def official(tmp_path, whole, paths=("images/a.jpg", "images/b.jpg")):
    """Return the official metrics of exact detections."""
    truth = read(tmp_path, whole, paths=paths)
    with (tmp_path / "found.json").open("wb") as file:
        writer = coco.PredictionsWriter(file)
        for image_id, (left, top, width, height) in zip(truth.keys.image_ids, BOXES, strict=True):
            row = torch.tensor([[left, top, left + width, top + height, 0.9, 0]])
            writer.add(coco.predictions(row, image_id, truth.keys))
        writer.close()
    return coco.official_numbers(truth.dataset, tmp_path / "found.json", truth.known, truth.keys.category_ids)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"info": None},
        {"annotations": without("iscrowd")},
        {"annotations": without("area")},
        {"annotations": without("id")},
        {"annotations": without("id", id=0)},
        {"annotations": without("id", id=1)},
        {"annotations": without("iscrowd", "area", "id")},
        {"annotations": without("area", area=None)},
        {"annotations": without("iscrowd", iscrowd="0")},
        {
            "annotations": [
                {**one, "bbox": None, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
                for one, (x, y, w, h) in zip(content()["annotations"], BOXES, strict=True)
            ]
        },
        {"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]},
        {"images": [{"id": 7, "file_name": "x\\a.jpg"}, {"id": 8, "file_name": "https://example.org/images/b.jpg"}]},
        {"images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.bmp"}]},
        {
            "images": [{"id": "7", "file_name": "a.jpg"}, {"id": "8", "file_name": "b.jpg"}],
            "annotations": [{**one, "image_id": str(one["image_id"])} for one in content()["annotations"]],
        },
    ],
    ids=[
        *("whole", "no info", "no iscrowd", "no area", "no id", "id 0", "one id", "no optional field", "area null"),
        *("text 0", "polygons", "duplicate name", "other separators", "other suffixes", "text ids"),
    ],
)
def test_missing_optional_fields_keep_official_metrics(tmp_path, changes):
    """pycocotools counts a match with id 0 as no match."""
    assert official(tmp_path, content(**changes)).ap == pytest.approx(1)


def test_images_without_name_are_matched_by_id(tmp_path):
    whole = content(images=[{"id": 7}, {"id": 8}])
    assert official(tmp_path, whole, paths=("images/7.jpg", "images/8.jpg")).ap == pytest.approx(1)


NAMES = {
    "cameras": ["cam1/a.jpg", "cam2/a.jpg"],
    "deep": ["x/train/a.jpg", "x/val/a.jpg"],
    "bare": ["a.jpg", "b.jpg"],
    "half": ["a.jpg", "cam2/a.jpg"],
}


@pytest.mark.parametrize(
    ("names", "paths", "expected"),
    [
        ("cameras", ["/d/cam1/a.jpg", "/d/cam2/a.jpg"], [0, 1]),
        ("cameras", ["/d/cam2/a.jpg", "/d/cam1/a.jpg"], [1, 0]),
        ("cameras", ["/d/images/cam2/a.jpg"], [1]),
        ("deep", ["/d/val/a.jpg"], [1]),
        ("bare", ["/d/cam1/b.jpg", "/d/cam1/a.jpg"], [1, 0]),
        ("half", ["/d/cam2/a.jpg"], [1]),
        ("cameras", ["/d/cam1/a.png", "/d/cam2/a.jpg"], [0, 1]),
        ("bare", ["/d/a.jpg", "/d/c.jpg"], [0, None]),
    ],
)
def test_image_is_matched_by_longest_common_path(tmp_path, names, paths, expected):
    images = [(number, PurePosixPath(name)) for number, name in enumerate(NAMES[names])]
    assert match_images(tmp_path / "a.json", images, paths) == expected


def test_names_are_matched_in_any_unicode_normalization():
    name = unicodedata.normalize("NFD", "é.jpg")
    assert match_images(None, [(7, PurePosixPath(name))], [f"/d/{unicodedata.normalize('NFC', name)}"]) == [7]


def test_image_is_matched_to_nearer_of_two_files():
    images = [(7, PurePosixPath("cam1/a.jpg"))]
    for paths in (["/d/cam1/a.jpg", "/d/cam3/a.jpg"], ["/d/cam3/a.jpg", "/d/cam1/a.jpg"]):
        assert match_images(None, images, paths) == [7 if "cam1" in path else None for path in paths]


@pytest.mark.parametrize(
    ("names", "paths", "message"),
    [
        ("cameras", ["/d/a.jpg"], r"/d/a\.jpg may be any of 2 images: cam1/a\.jpg \(id 0\), cam2/a\.jpg"),
        ("cameras", ["/d/cam3/a.jpg"], r"may be any of 2 images"),
        ("bare", ["/d/cam1/a.jpg", "/d/cam2/a.jpg"], r"/d/cam1/a\.jpg and /d/cam2/a\.jpg are both image 0"),
        ("bare", ["/d/a.png", "/d/a.jpg"], "are both image 0"),
        ("bare", ["/d/x.jpg", "/d/y.jpg"], r"has none of the 2 images \(/d/x\.jpg, /d/y\.jpg\)"),
    ],
)
def test_ambiguous_images_are_refused(tmp_path, names, paths, message):
    images = [(number, PurePosixPath(name)) for number, name in enumerate(NAMES[names])]
    with pytest.raises(DataError, match=message) as caught:
        match_images(tmp_path / "a.json", images, paths)
    assert caught.value.hint


def test_images_missing_in_annotations_get_unused_ids_and_are_reported(tmp_path):
    """7.jpg must not get the id 7, which another image has."""
    truth = read(tmp_path, content(), paths=("d/a.jpg", "d/7.jpg", "d/9.jpg"))
    assert (truth.keys.image_ids, truth.known) == ([7, "d/7.jpg", 9], (7,))
    (message,) = truth.messages
    assert "official COCO metrics are over 1 of 3 images" in message and "d/7.jpg, d/9.jpg" in message


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ("{", "is not in COCO's format, nor JSON"),
        ("[]", "a list, as predictions are"),
        ('"x"', "has no list 'images'"),
        (content(images=None), "has no list 'images'"),
        (content(categories=None), "has no list 'categories'"),
        (content(annotations=None), "has no list 'annotations'"),
        (content(annotations={}), "has no list 'annotations'"),
        (content(images=[{"file_name": "a.jpg"}]), r"images\[0\]: id is missing"),
        (content(images=[{"id": 1.5}]), r"images\[0\]: id 1\.5 is not a whole number or text"),
        (
            content(images=[{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]),
            "id 1 of b.jpg is that of",
        ),
        (content(categories=[{"id": 1}]), r"categories\[0\]: name is missing"),
        (content(categories=[{"name": "cat"}]), r"categories\[0\]: id is missing"),
        (content(categories=[{"id": 1, "name": "Cat"}]), "has no category 'cat'; it has 'Cat'"),
        (content(annotations=without("image_id")), r"annotations\[0\]: image_id is missing"),
        (content(annotations=without("category_id")), r"annotations\[0\]: category_id is missing"),
        (content(annotations=without("bbox")), r"annotations\[0\]: bbox None is not left, top"),
        (content(annotations=without("bbox", bbox=[1, 2, 3])), r"annotations\[0\]: bbox \[1, 2, 3\] is not left"),
        (content(annotations=without("bbox", bbox=[1, 2, -3, 4])), "finite and not negative"),
        (content(annotations=[[1, 2]]), r"annotations\[0\]: \[1, 2\] is not a JSON object"),
        (
            content(
                categories=[{"id": 3, "name": "cat"}, {"id": 4, "name": "cat"}, {"id": 5, "name": "dog"}],
                annotations=[*without(), {**without()[0], "category_id": 4}],
            ),
            r"category 'cat' has several ids, \[3, 4\]",
        ),
    ],
)
def test_invalid_annotations_are_refused(tmp_path, whole, message):
    with pytest.raises(DataError, match=rf"truth\.json: .*{message}|truth\.json: {message}"):
        read(tmp_path, whole)


def test_missing_file_error_names_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: cannot be read: No such file"):
        read_annotations(tmp_path / "gone.json", ["cat"], ["a.jpg"])


@pytest.mark.parametrize("flag", [1, True, "1"])
def test_crowds_are_listed_by_image(tmp_path, flag):
    truth = read(tmp_path, content(annotations=without("iscrowd", iscrowd=flag)))
    assert truth.crowds[7].tolist() == [[0, 10, 10, 50, 40]]
