"""What may be named as the source of a conversion, and the split that it is."""

from pathlib import Path

import pytest
from coco_sets import one, write_coco
from voc_sets import write_voc, xml_file, xml_object

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.convert.convert import convert
from hpc_yolo.data.convert.source import find_dataset


@pytest.mark.parametrize(
    ("path", "splits"),
    [
        ("voc/d.yaml", ["train", "val"]),
        ("voc", ["train"]),
        ("voc/Annotations", ["train"]),
        ("coco/instances_val2017.json", ["val"]),
        ("coco/a.json", ["train"]),
    ],
)
def test_source_may_be_a_yaml_or_files_of_a_format(tmp_path, path, splits):
    write_voc(tmp_path / "voc", {"1": xml_file(xml_object())})
    write_coco(tmp_path / "coco", [one()])
    (tmp_path / "coco" / "pictures").rename(tmp_path / "coco" / "images")
    (tmp_path / "coco" / "d.yaml").unlink()
    (tmp_path / "coco" / "instances_val2017.json").write_text((tmp_path / "coco" / "a.json").read_text())
    found = convert(find_dataset(tmp_path / path), tmp_path / "to", "yolo")
    assert {split: one.num_objects for split, one in found.splits.items()} == dict.fromkeys(splits, 1)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("instances_val2017", "val"),
        ("image_info_test-dev2017", "test"),
        ("instances_minival2014", "val"),
        ("image_info_testdev2017", "test"),
        ("train_latest", "train"),
        ("contest", "train"),
        ("trainval", "train"),
        ("interval_1", "train"),
        ("validation", "val"),
        ("my.Valid.v2", "val"),
        ("instancesVal", "val"),
        ("valset", "val"),
        ("eval_2", "val"),
        ("testset", "test"),
        ("TEST", "test"),
        ("_annotations.coco", "train"),
    ],
)
def test_words_in_the_name_of_a_coco_file_are_its_split(tmp_path, name, split):
    (tmp_path / f"{name}.json").write_text(write_coco(tmp_path, [one()]).with_name("a.json").read_text())
    dataset = find_dataset(tmp_path / f"{name}.json")
    assert [one for one in ("train", "val", "test") if dataset.split(one)] == [split]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.yaml", "there is no dataset"),
        ("empty", "empty: is a directory without annotations that can be read"),
        ("set", "name its dataset YAML: .*set/data.yaml"),
        ("bare", "has neither train.txt, val.txt, test.txt nor trainval.txt"),
        ("gone.json", r"gone\.json: there is no such file"),
        ("coco.yaml", "names: is missing, and no file of a split is here from which the classes could be read"),
    ],
)
def test_source_that_is_none_is_an_error_with_what_to_name(tmp_path, path, message):
    for directory in ("empty", "set", "bare/ImageSets/Main"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "set" / "data.yaml").write_text("x")
    (tmp_path / "coco.yaml").write_text("format: coco\ntrain: gone.json\n")
    with pytest.raises(DataError, match=message) as caught:
        find_dataset(tmp_path / path)
    assert str(caught.value)


def test_name_of_a_shipped_dataset_is_one(tmp_path, monkeypatch):
    """Messages say which are shipped, and other commands take their names."""
    monkeypatch.chdir(tmp_path)
    assert find_dataset(Path("shapes")).names == ("circle", "square", "triangle", "star")


def test_directory_of_images_may_be_given(tmp_path):
    write_coco(tmp_path / "coco", [one()])
    found = find_dataset(tmp_path / "coco" / "a.json", tmp_path / "coco" / "pictures")
    assert convert(found, tmp_path / "to", "yolo").splits["train"].num_images == 1
    with pytest.raises(DataError, match="is a dataset YAML, which itself names its images"):
        find_dataset(tmp_path / "coco" / "d.yaml", tmp_path)
