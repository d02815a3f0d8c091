"""Names of classes and images in a conversion: they survive or are refused, and nothing is written elsewhere."""

import json
from pathlib import Path

import pytest
import yaml
from coco_sets import image, one, write_coco
from conversions import converted, indexes
from image_sets import GOOD, add, different, make_set
from voc_sets import write_voc, xml_file, xml_object

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.convert.convert import convert
from hpc_yolo.data.convert.source import find_dataset
from hpc_yolo.data.dataset import load_dataset

ALL = ("yolo", "coco", "voc")


def test_images_of_one_name_would_share_their_labels(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    add(root, "a.png")
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png differ in their suffix alone"):
        convert(find_dataset(root / "d.yaml"), tmp_path / "to", "voc")


def test_image_of_two_splits_is_linked_once(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    found = convert(find_dataset(root / "d.yaml"), tmp_path / "to", "voc", images="link")
    assert {split: one.num_images for split, one in found.splits.items()} == {"train": 1, "val": 1}


def test_images_of_one_name_in_two_splits_share_labels_only_in_one_directory_for_all(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    add(root, "a.png", different(1))
    (root / "train.txt").write_text("images/train/a.jpg\n")
    (root / "val.txt").write_text("images/train/a.png\n")
    (root / "d.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match="differ in their suffix alone"):
        convert(find_dataset(root / "d.yaml"), tmp_path / "voc", "voc")
    for kind in ("yolo", "coco"):
        found = convert(find_dataset(root / "d.yaml"), tmp_path / kind, kind)
        assert {split: one.num_images for split, one in found.splits.items()} == {"train": 1, "val": 1}


def test_coco_has_images_that_differ_in_their_suffix_alone(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    add(root, "a.png", different(1))
    assert convert(find_dataset(root / "d.yaml"), tmp_path / "to", "coco").splits["train"].num_images == 2


@pytest.fixture
def scattered(tmp_path) -> Path:
    """Directories of images, a COCO file and a list that name them with `..`, and a dataset YAML of the list."""
    for number, directory in enumerate(("src/a/b/imgs", "extra", "src/a/b/near"), 1):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / f"{number}.png").write_bytes(different(number))
        (tmp_path / directory / f"{number}.txt").write_text(GOOD)
    names = ["1.png", "../../../../extra/2.png", "../near/3.png"]
    write_coco(
        tmp_path, [one(1), one(2), one(3)], [image(number, file_name=name) for number, name in enumerate(names, 1)]
    )
    (tmp_path / "list.txt").write_text("".join(f"src/a/b/imgs/{name}\n" for name in names))
    (tmp_path / "yolo.yaml").write_text("train: list.txt\nval: list.txt\nnames: [cat, dog]\n")
    return tmp_path


@pytest.mark.parametrize("images", ["link", "copy"])
@pytest.mark.parametrize(("source", "kind"), [("a.json", "yolo"), ("a.json", "voc"), ("yolo.yaml", "yolo")])
def test_images_above_their_directory_are_written_into_the_new_one(scattered, source, kind, images):
    unrelated = [scattered / "out" / "extra" / name for name in ("2.txt", "2.png", "2.xml")]
    unrelated[0].parent.mkdir(parents=True)
    for path in unrelated:
        path.write_text("unrelated")
    before = {path for path in scattered.rglob("*") if path.is_file()}
    images_from = scattered / "src" / "a" / "b" / "imgs" if source == "a.json" else None
    target = convert(find_dataset(scattered / source, images_from), scattered / "out" / "new", kind, images=images)
    assert [path.read_text() for path in unrelated] == ["unrelated"] * 3
    written = {path for path in scattered.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(scattered / "out" / "new") for path in written)
    index = indexes(Path(target.dataset))[0]
    assert sorted(Path(path).read_bytes() for path in index.paths) == sorted(different(number) for number in (1, 2, 3))
    assert len(index.labels.rows) == 3


@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_directories_above_the_dataset_are_below_one_root(tmp_path, kind):
    """As exports name the splits, relative to a path that is beside them."""
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    add(make_set(tmp_path / "set" / "more"), "b.jpg")
    (root / "d.yaml").write_text(
        "train: [../set/images/train, more/images/train]\nval: images/train\nnames: [cat, dog]\n"
    )
    target = converted(root / "d.yaml", tmp_path / "to", kind)
    assert [Path(path).name for path in indexes(target)[0].paths] == ["a.jpg", "b.jpg"]
    assert {path.name for path in tmp_path.iterdir()} == {"set", "to"}


def test_link_before_two_dots_is_followed(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    add(make_set(tmp_path / "other"), "b.jpg")
    (root / "images" / "link").symlink_to(tmp_path / "other" / "labels")
    (root / "list.txt").write_text("images/train/a.jpg\nimages/link/../images/train/b.jpg\n")
    (root / "d.yaml").write_text("train: list.txt\nval: list.txt\nnames: [cat, dog]\n")
    convert(find_dataset(root / "d.yaml"), tmp_path / "to", "coco")
    written = json.loads((tmp_path / "to" / "annotations" / "instances_train.json").read_text())["images"]
    assert [entry["file_name"] for entry in written] == ["other/images/train/b.jpg", "set/images/train/a.jpg"]


def test_image_that_lists_name_in_two_ways_is_an_error_with_both(tmp_path):
    root = tmp_path / "set"
    write_voc(root, {"a": xml_file(xml_object())}, yaml="names: [cat]\n")
    text = (root / "d.yaml").read_text()
    lists = "[ImageSets/Main/train.txt, ImageSets/../ImageSets/Main/train.txt]"
    (root / "d.yaml").write_text(text.replace("train: ImageSets/Main/train.txt", f"train: {lists}"))
    with pytest.raises(DataError, match=r"train: .*/\.\./JPEGImages/a\.jpg and .*/JPEGImages/a\.jpg are one file"):
        convert(find_dataset(root / "d.yaml"), tmp_path / "to", "yolo")


@pytest.mark.parametrize(
    ("names", "kinds", "message"),
    [
        (["cat", "dog", "cat"], {"coco", "voc"}, "names: the classes 0 and 2 have one name, 'cat'"),
        (["cat", " dog "], {"voc"}, "names: class 1, ' dog ', begins or ends with a space"),
        (["cat", ""], {"voc"}, "names: class 1, '', is empty"),
        (["c\x07t", "dog"], {"voc"}, r"names: class 0, .*, has the character '\\x07', which XML cannot have"),
        (["c\rt", "dog"], {"voc"}, r"names: class 0, .*, has the character '\\r'"),
        (["\ud800", "dog"], {"coco", "voc"}, "names: class 0, .*(is not UTF-8|which XML cannot have)"),
        (["a\tb", "<&>\"' \U0001f600"], set(), ""),
    ],
)
def test_names_of_classes_survive_or_are_refused(tmp_path, names, kinds, message):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg", label="".join(GOOD.replace("0", str(index), 1) for index in range(len(names))))
    (root / "d.yaml").write_text(yaml.safe_dump({"train": "images/train", "val": "images/train", "names": names}))
    for kind in ALL:
        if kind in kinds:
            with pytest.raises(DataError, match=message):
                convert(find_dataset(root / "d.yaml"), tmp_path / kind, kind)
            assert not (tmp_path / kind).exists()
            continue
        there = converted(root / "d.yaml", tmp_path / kind, kind)
        back = converted(there, tmp_path / f"{kind}-back", "yolo")
        assert list(load_dataset(back).names) == names
        assert indexes(back)[0].labels[0][:, 0].tolist() == list(range(len(names)))


@pytest.mark.parametrize(
    ("name", "kinds", "message"),
    [
        ("caf\udce9.jpg", {"coco", "voc"}, r"caf\\udce9\.jpg: its name (is not UTF-8|has the character '\\udce9')"),
        ("a\x07.jpg", {"voc"}, r"a\\x07\.jpg: its name has the character '\\x07'"),
        ("a\nb.jpg", {"voc"}, r"the image 'a\\nb': its name cannot be a line"),
        (" a.jpg", set(), ""),
        ("#a.jpg", set(), ""),
        ("a.png.jpg", set(), ""),
        ("a\\b.jpg", {"coco"}, r"a\\b\.jpg: its name has a backslash"),
        ("a & <b> 'é\U0001f600.jpg", set(), ""),
    ],
)
def test_names_of_images_survive_or_are_refused(tmp_path, name, kinds, message):
    root = make_set(tmp_path / "set")
    add(root, name)
    add(root, "other.jpg", different(1))
    for kind in ALL:
        if kind in kinds:
            with pytest.raises(DataError, match=message) as caught:
                convert(find_dataset(root / "d.yaml"), tmp_path / kind, kind)
            assert str(caught.value).encode()
            assert not (tmp_path / kind).exists()
        else:
            index = indexes(converted(root / "d.yaml", tmp_path / kind, kind))[0]
            assert sorted(Path(path).name for path in index.paths) == sorted([name, "other.jpg"])
            assert len(index.labels.rows) == 2


def test_ids_are_numbers_in_names_and_cocos_own_categories(tmp_path):
    write_coco(tmp_path / "coco", [one(397133), one(25)], [image(397133), image(25)])
    converted(tmp_path / "coco" / "d.yaml", tmp_path / "to", "coco")
    written = json.loads((tmp_path / "to" / "annotations" / "instances_train.json").read_text())
    assert sorted(entry["id"] for entry in written["images"]) == [25, 397133]
    assert [entry["id"] for entry in written["categories"]] == [1, 2]
