"""COCO's format as it is: which objects an image has, what is left out with which message, and equal samples."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from coco_sets import BOX, CATEGORIES, SQUARE_PIXELS, TRIANGLE_PIXELS, image, load, one, scanned, write_coco
from image_sets import make_samples, plain

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.coco_json import COCO_IDS, coco_class_names
from hpc_yolo.data.dataset import dataset_content, load_dataset
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.formats.coco_polygons import joined_polygons, signed_area
from hpc_yolo.data.formats.yolo_labels import label_line
from hpc_yolo.data.scan import scan_split

MIDDLE = [0.5, 0.5, 0.5, 0.5]
AROUND_TRIANGLE = [0.5, 0.55, 0.6, 0.7]
WITHOUT_ANY = {"images": [image(1)], "annotations": [one()], "categories": CATEGORIES}


def labels_of(root: Path, **options) -> list:
    return [[round(number, 6) for number in row] for row in scanned(root, **options).labels[0].tolist()]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (one(), [[0, *MIDDLE]]),
        (one(category=7), [[1, *MIDDLE]]),
        (one(bbox=[15, 10, 30, 20]), [[0, *MIDDLE]]),
        (one(segmentation=[TRIANGLE_PIXELS], bbox=None), [[0, *AROUND_TRIANGLE]]),
        (one(segmentation=[TRIANGLE_PIXELS], bbox=[12, 8, 36, 28]), [[0, *AROUND_TRIANGLE]]),
        (one(segmentation=[TRIANGLE_PIXELS]), [[0, *AROUND_TRIANGLE]]),
        (one(segmentation=[[1.0, 1.0, 2.0, 1.0, 2.0, 2.0]]), [[0, *MIDDLE]]),
        (one(segmentation=[]), [[0, *MIDDLE]]),
        (one(segmentation=[[]]), [[0, *MIDDLE]]),
        (one(segmentation=None), [[0, *MIDDLE]]),
        (one(segmentation=[[15.0, 10.0, 45.0, 30.0]]), [[0, *MIDDLE]]),
        (one(segmentation={"counts": "x", "size": [40, 60]}), [[0, *MIDDLE]]),
        (one(bbox=[-15.0, 10.0, 60.0, 20.0]), [[0, 0.375, 0.5, 0.75, 0.5]]),
        (one(bbox=[0.0, 0.0, 60.0, 40.0]), [[0, 0.5, 0.5, 1, 1]]),
        (one(bbox=[0.0, 0.0, 60.00001, 40.0]), [[0, 0.5, 0.5, 1, 1]]),
        (one(bbox=[70.0, 10.0, 5.0, 5.0]), []),
        (one(bbox=[10.0, 10.0, 0.0, 5.0]), []),
        (one(bbox=[10.0, 10.0, -5.0, 5.0]), []),
        (one(iscrowd=1), []),
        (one(iscrowd=True), []),
        (one(iscrowd="1"), []),
        (one(iscrowd=0), [[0, *MIDDLE]]),
        (one(iscrowd=None), [[0, *MIDDLE]]),
    ],
)
def test_object_becomes_the_label_of_its_outline_or_box(tmp_path, annotation, expected):
    write_coco(tmp_path, [annotation])
    assert labels_of(tmp_path, needs_labels=False) == expected


@pytest.mark.parametrize(
    ("annotations", "remark"),
    [
        ([one(), one(99)], r"1 object \(annotations\[1\]\) left out, of an image that the file does not have"),
        (
            [one(), one(bbox=[0.0, 0.0, 0.0, 9.0])],
            r"1 object \(annotations\[1\]\) left out, without an area in the image",
        ),
        ([one(bbox=[-9.0, 0.0, 30.0, 9.0])], r"1 object \(annotations\[0\]\) cut at the edges of the image"),
        ([one(segmentation=[[1.0, 1.0, 2.0, 1.0, 2.0, 2.0]])] * 2, r"2 objects \(annotations\[0\], …\) used as a box"),
        (
            [one(segmentation={"counts": "x", "size": [40, 60]})],
            r"1 object .* used as a box: masks \(RLE\) are not read",
        ),
        ([one(), one(iscrowd=1)], r"1 object \(annotations\[1\]\) left out, a crowd \(iscrowd\)"),
    ],
)
def test_unusual_objects_are_counted_with_the_first_also_from_the_cache(tmp_path, annotations, remark):
    write_coco(tmp_path, annotations, [image(1)])
    first, again = scanned(tmp_path), scanned(tmp_path)
    assert any(re.search(rf"^train: .*a\.json: {remark}", message) for message in first.messages), first.messages
    assert plain(first) == plain(again)


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (one(category=99), r"a\.json: annotations\[1\]: category_id 99; the categories are 3, 7"),
        (one(bbox=[1.0, 2.0, 3.0]), r"annotations\[1\]: bbox \[1.0, 2.0, 3.0\] is not left, top, width and height"),
        (one(bbox=None), r"annotations\[1\]: has no bbox, and no polygon"),
        (one(segmentation=[[1.0, 2.0, 3.0]]), r"annotations\[1\]: segmentation: a polygon of 3 numbers"),
        (one(segmentation="x"), r"annotations\[1\]: segmentation \"x\" … is not a list of polygons"),
    ],
)
def test_invalid_object_leaves_its_image_out(tmp_path, annotation, problem):
    write_coco(tmp_path, [one(2), annotation])
    index = scanned(tmp_path)
    assert [Path(path).name for path in index.paths] == ["2.jpg"]
    assert re.search(problem, index.findings.problems.first[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "an empty file"),
        ("hello", "is not JSON: .*byte 0.*begins with b'hello'"),
        ("[]", "expected object, got array"),
        ('{"images": []}', "missing required field categories"),
        (json.dumps({**WITHOUT_ANY, "images": [{"file_name": "1.jpg"}]}), r"images\[0\]: .*missing required field id"),
        (json.dumps({**WITHOUT_ANY, "categories": []}), "its list of categories is empty"),
        (
            json.dumps({**WITHOUT_ANY, "categories": [*CATEGORIES, {"id": 3, "name": "cow"}]}),
            "categories: id 3 is that of cat and of cow",
        ),
        (json.dumps({**WITHOUT_ANY, "images": []}), "the list of images is empty"),
        (json.dumps({**WITHOUT_ANY, "images": [image(1), image(1, file_name="b.jpg")]}), "id 1 is that of 1.jpg and"),
        (json.dumps({**WITHOUT_ANY, "images": [image(5)]}), r"none of its 1 images was found\n.*5.jpg does not exist"),
        (json.dumps({**WITHOUT_ANY, "annotations": [{"image_id": 1}]}), r"annotations\[0\]: .*category_id"),
        (json.dumps(WITHOUT_ANY).replace("15.0", "NaN"), "is not JSON"),
        (
            json.dumps({**WITHOUT_ANY, "images": [image("1")]}),
            r'annotations\[0\]: image_id 1 is a number, and the ids of the images are text, such as "1"',
        ),
        (
            json.dumps({**WITHOUT_ANY, "annotations": [one(), one("1")]}),
            r'annotations\[1\]: image_id "1" is text, and the ids of the images are numbers, such as 1',
        ),
    ],
)
def test_unusable_file_is_an_error_with_what_was_seen(tmp_path, content, message):
    write_coco(tmp_path, [one()])
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=rf"(?s)a\.json.*{message}"):
        scanned(tmp_path)


def test_images_without_objects_are_background_and_missing_ones_a_problem(tmp_path):
    write_coco(tmp_path, [one()], [image(1), image(2), image(3)])
    (tmp_path / "pictures" / "3.jpg").unlink()
    index = scanned(tmp_path)
    assert (index.num_images, index.num_backgrounds, index.num_corrupt) == (2, 1, 1)
    assert "a.json: images[2]: 3.jpg does not exist in" in index.messages[1]
    assert "1 of 2 images without objects: the annotations have none in them" in "\n".join(index.messages)


def test_size_comes_from_the_image_where_the_file_has_none_and_another_shape_is_said(tmp_path):
    turned = image(2, width=40, height=60)
    write_coco(tmp_path, [one(), one(2)], [image(1, width=None, height=None), turned])
    index = scanned(tmp_path)
    assert index.labels[0].tolist() == [[0, *MIDDLE]]
    assert any("1 of 2 images of another shape than is written" in message for message in index.messages)


@pytest.mark.parametrize(
    ("name", "directory", "yaml"),
    [
        ("1.jpg", "pictures", "images: pictures"),
        ("1.jpg", "pictures/train", "images: {train: pictures/train, val: pictures}"),
        ("1.jpg", "train2017", ""),
        ("1.jpg", "images/train2017", ""),
        ("1.jpg", "annotations", ""),
        ("1.jpg", "train", ""),
        ("sub/1.jpg", "images/sub", ""),
        ("sub\\1.jpg", "images/sub", ""),
        ("/elsewhere/of/another/1.jpg", "images", ""),
        ("./1.jpg", "images", "images: images"),
    ],
)
def test_images_are_found_as_exports_have_them(tmp_path, name, directory, yaml):
    write_coco(tmp_path, [one()])
    (tmp_path / directory).mkdir(parents=True, exist_ok=True)
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "pictures" / "1.jpg").rename(tmp_path / directory / "1.jpg")
    content = {**WITHOUT_ANY, "images": [image(1, file_name=name)]}
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    (tmp_path / "d.yaml").write_text(f"format: coco\ntrain: annotations/instances_train2017.json\nval: .\n{yaml}\n")
    index = scanned(tmp_path)
    assert Path(index.paths[0]).resolve() == (tmp_path / directory / "1.jpg").resolve()


def test_ids_of_images_may_be_text(tmp_path):
    write_coco(tmp_path, [one("a"), one("1")], [image("a"), image("1")])
    assert [len(labels) for labels in scanned(tmp_path).labels] == [1, 1]


def test_image_under_two_spellings_is_one_image_with_the_objects_of_both(tmp_path):
    write_coco(tmp_path, [one(1), one(2, 7)], [image(1), image(2, file_name="../pictures/1.jpg")])
    index = scanned(tmp_path)
    assert list(index.paths) == [str(tmp_path / "pictures" / "1.jpg")]
    assert index.labels[0][:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["1.jpg", "gone.jpg"])
def test_repeated_entry_of_an_image_counts_once(tmp_path, name):
    write_coco(tmp_path, [one(1), one(2)], [image(1), *[image(2, file_name=name)] * 2])
    reader = open_split(load(tmp_path), "train")
    both = name == "1.jpg"
    assert len(reader.objects(reader.images[0])) == len(reader.read_each(reader.images[0])) == 1 + both
    assert len(reader.problems) == (not both)


@pytest.mark.parametrize(
    ("categories", "used", "names"),
    [
        ([(7, "dog", None), (3, "cat", None)], 3, ("cat", "dog")),
        ([(0, "pets", "none"), (1, "cat", "pets"), (2, "dog", "pets")], 1, ("cat", "dog")),
        ([(0, "pets", "none"), (1, "cat", "pets"), (2, "dog", "pets")], 0, ("pets", "cat", "dog")),
        ([(1, "person", "person"), (2, "bicycle", "vehicle")], 1, ("person", "bicycle")),
        ([(0, "face", "none"), (1, "face", "face")], 1, ("face",)),
    ],
)
def test_names_are_the_categories_in_order_of_ids(tmp_path, categories, used, names):
    rows = [{"id": number, "name": name, "supercategory": above} for number, name, above in categories]
    write_coco(tmp_path, [one(category=used)], categories=rows)
    assert load(tmp_path).names == names
    if names == ("face",):
        assert labels_of(tmp_path) == [[0, *MIDDLE]], "both categories of that name"


@pytest.mark.parametrize("ids", [COCO_IDS, range(1, 92)], ids=["80 of 91", "all 91"])
def test_categories_of_coco_become_its_80_classes(tmp_path, ids):
    names = dict(zip(COCO_IDS, coco_class_names(), strict=True))
    rows = [{"id": number, "name": names.get(number, f"unused {number}"), "supercategory": "x"} for number in ids]
    write_coco(tmp_path, [one(category=90)], categories=rows)
    assert load(tmp_path).names == coco_class_names()
    assert labels_of(tmp_path) == [[79, *MIDDLE]]


def test_written_names_choose_and_order_the_classes(tmp_path):
    write_coco(tmp_path, [one(), one(category=7)], yaml="names: [dog]\n")
    index = scanned(tmp_path)
    assert index.labels[0].tolist() == [[0, *MIDDLE]]
    assert any("of a category that names: does not list" in message for message in index.messages)
    write_coco(tmp_path, [one()], yaml="names: [horse]\n")
    with pytest.raises(DataError, match="has no category of the dataset's names; it has cat, dog; the names are horse"):
        scanned(tmp_path)


def test_categories_of_one_id_are_an_error_also_where_names_are_written(tmp_path):
    categories = [*CATEGORIES, {"id": 3, "name": "cow"}]
    write_coco(tmp_path, [one()], yaml="names: [cat, dog, cow]\n", categories=categories)
    with pytest.raises(DataError, match="categories: id 3 is that of cat and of cow"):
        scanned(tmp_path)
    write_coco(tmp_path, [one()], categories=[*CATEGORIES, CATEGORIES[0]])
    assert labels_of(tmp_path) == [[0, *MIDDLE]], "a category that is repeated"


def test_single_cls_merges_classes_of_objects_and_crowds(tmp_path):
    write_coco(tmp_path, [one(category=7), one(category=7, iscrowd=1)])
    index = scan_split(load(tmp_path, single_cls=True), "train")
    assert (index.labels[0][:, 0].tolist(), index.crowds[:, 1].tolist()) == ([0], [0])


def test_several_files_are_one_split(tmp_path):
    write_coco(tmp_path, [one(1)])
    content = {"images": [image(1), image(2)], "categories": CATEGORIES}
    (tmp_path / "b.json").write_text(json.dumps({**content, "annotations": [one(2, 7), one(1, 7)]}))
    write_coco(tmp_path / "b", [one(2)])
    (tmp_path / "b" / "pictures" / "2.jpg").rename(tmp_path / "pictures" / "2.jpg")
    text = (tmp_path / "d.yaml").read_text().replace("train: a.json", "train: [a.json, b.json]")
    (tmp_path / "d.yaml").write_text(text)
    assert [labels[:, 0].tolist() for labels in scanned(tmp_path).labels] == [[0, 1], [1]]


@pytest.mark.parametrize(
    ("train", "hint"),
    [
        ("a.json", "annotations in COCO's format need format: coco in the dataset YAML"),
        ("files", "it has .json files: labels of Pascal VOC or COCO need format: coco"),
        ("xml", "it has .xml files: labels of Pascal VOC or COCO need format: voc"),
        ("ImageSets/train.txt", "lists of Pascal VOC need format: voc in the dataset YAML"),
    ],
)
def test_other_format_than_is_written_is_said(tmp_path, train, hint):
    write_coco(tmp_path, [one()])
    for directory in ("files", "xml", "ImageSets"):
        (tmp_path / directory).mkdir()
    (tmp_path / "files" / "a.json").touch()
    (tmp_path / "xml" / "a.xml").touch()
    (tmp_path / "ImageSets" / "train.txt").write_text("2008_000008\n")
    (tmp_path / "d.yaml").write_text(f"train: {train}\nval: {train}\nnames: [a]\n")
    with pytest.raises(DataError) as caught:
        scanned(tmp_path)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("format: coconut\ntrain: a.json\nval: a.json\n", "format: 'coconut' is not one of yolo, coco, voc"),
        (
            "train: a.json\nval: a.json\nnames: [a]\nimages: x\n",
            "images: is a key of format: coco and voc, and the format is yolo",
        ),
        ("format: coco\ntrain: a.json\nval: a.json\nimages: {tarin: x}\n", "images: .*tarin.* is not a directory"),
        ("format: coco\ntrain: a.json\nval: a.json\nimages: [x]\n", "images: .* is not a directory"),
        ("format: coco\ntrain: empty\nval: a.json\n", "empty: is a directory with no JSON file"),
        ("format: coco\ntrain: gone.json\nval: a.json\n", "gone.json does not exist"),
    ],
)
def test_wrong_keys_are_errors(tmp_path, yaml, message):
    write_coco(tmp_path, [one()])
    (tmp_path / "empty").mkdir()
    (tmp_path / "d.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_copy_for_a_run_has_absolute_paths_and_the_names(tmp_path, monkeypatch):
    write_coco(tmp_path, [one()])
    copy = dataset_content(tmp_path / "d.yaml")
    assert copy["train"] == [str(tmp_path / "a.json")]
    assert copy["images"] == dict.fromkeys(("train", "val", "test"), str(tmp_path / "pictures"))
    assert copy["names"] == ["cat", "dog"]
    monkeypatch.setenv("COPY", "/nowhere")
    (tmp_path / "n.yaml").write_text("format: coco\npath: $COPY/set\ntrain: a.json\nval: a.json\nnames: [cat]\n")
    assert dataset_content(tmp_path / "n.yaml")["path"] == "$COPY/set"
    (tmp_path / "n.yaml").write_text("format: coco\npath: $COPY/set\ntrain: a.json\nval: a.json\n")
    with pytest.raises(DataError, match="names: is missing, and the classes cannot be read from"):
        dataset_content(tmp_path / "n.yaml")


def test_cache_follows_the_files_and_the_names(tmp_path, monkeypatch):
    write_coco(tmp_path, [one()])
    scanned(tmp_path)
    write_coco(tmp_path, [one(category=7)])
    assert labels_of(tmp_path)[0][0] == 1, "another file"
    write_coco(tmp_path, [one(category=7)], yaml="names: [dog, cat]\n")
    assert labels_of(tmp_path)[0][0] == 0, "other names"
    monkeypatch.setattr("hpc_yolo.data.formats.coco.CocoObjects", None)
    assert labels_of(tmp_path)[0][0] == 0, "objects are not decoded for a cached scan"


def test_samples_equal_those_of_the_same_labels_as_text(tmp_path):
    random = np.random.default_rng(0)
    annotations = []
    for number in range(1, 7):
        for _ in range(4):
            left, top = random.uniform(0, 40), random.uniform(0, 25)
            width, height = random.uniform(5, 30), random.uniform(5, 20)
            corners = [left, top, left + width, top, left + width, top + height, left, top + height]
            both = [corners, SQUARE_PIXELS] if random.random() < 0.3 else [corners]
            shape = {"segmentation": both} if random.random() < 0.6 else {}
            annotations.append(one(number, 7, bbox=[left, top, width, height], **shape))
    annotations += [one(1), one(1), one(1, iscrowd=1)]
    write_coco(tmp_path / "coco", annotations)
    reader = open_split(load(tmp_path / "coco"), "train")
    (tmp_path / "yolo" / "labels").mkdir(parents=True)
    (tmp_path / "yolo" / "images").symlink_to(tmp_path / "coco" / "pictures")
    for path in reader.images:
        lines = [label_line(each) for each in reader.objects(path)]
        (tmp_path / "yolo" / "labels" / f"{path.stem}.txt").write_text("\n".join(lines))
    (tmp_path / "yolo" / "d.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n")
    ours, theirs = scanned(tmp_path / "coco"), scan_split(load_dataset(tmp_path / "yolo" / "d.yaml"), "train")
    assert ours.labels.rows.tobytes() == theirs.labels.rows.tobytes()
    assert ours.outlines.points.tobytes() == theirs.outlines.points.tobytes()
    for hyp in ({"mosaic": 1.0, "mixup": 0.5, "copy_paste": 0.5}, {"mosaic": 0.0}):
        for number in range(len(ours.paths)):
            pairs = [make_samples(index, 64, **hyp).sample(1, number) for index in (ours, theirs)]
            assert pairs[0][0].tobytes() == pairs[1][0].tobytes()
            assert pairs[0][1].tobytes() == pairs[1][1].tobytes()


def test_joined_polygons_go_there_and_back_on_the_same_line():
    first = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=float)
    second = np.array([[9, 9], [6, 4], [9, 4]], dtype=float)
    outline = joined_polygons([first, second])
    assert outline.tolist() == [[0, 0], [4, 0], [4, 4], [6, 4], [9, 4], [9, 9], [6, 4], [4, 4], [0, 4]]
    assert joined_polygons([first]) is first
    assert signed_area(joined_polygons([first, second])) == pytest.approx(16 + 7.5), "in spite of other directions"


def test_box_that_the_bbox_of_crowds_covers_is_kept_for_evaluations(tmp_path):
    write_coco(tmp_path, [one(2), one(1, 7, iscrowd=1), one(1)])
    index = scanned(tmp_path)
    assert index.crowds.tolist() == [[0, 1, *MIDDLE]]
    assert index.labels[0].tolist() == [[0, *MIDDLE]]
    assert BOX == [15, 10, 30, 20]


def test_every_object_is_reported_with_its_place(tmp_path):
    write_coco(tmp_path, [one(), one(), one(category=99), one(iscrowd=1), one(bbox=[0.0, 0.0, 0.0, 0.0])], [image(1)])
    reader = open_split(load(tmp_path), "train")
    found = reader.read_each(reader.images[0]) or []
    assert [(each.position, each.label) for each in found] == [(0, (0, *MIDDLE)), (1, (0, *MIDDLE)), (2, ())]
    place = f"{tmp_path}/a.json: annotations[2]"
    assert reader.where(reader.images[0], 2) == place
    assert found[2].problem.startswith(place)
    with pytest.raises(ValueError, match=re.escape(place)):
        reader.read(reader.images[0])
