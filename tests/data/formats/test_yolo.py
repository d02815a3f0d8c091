"""Splits in the YOLO layout: labels that are missing, or there under another name."""

import re
import shutil
import unicodedata

import pytest
from image_sets import GOOD, JPEG, add, scan

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats import open_split


def test_split_that_is_not_there_is_an_error(directory):
    with pytest.raises(DataError, match="there is no split test"):
        open_split(load_dataset(directory / "d.yaml"), "test")


def test_state_of_an_image_changes_with_its_labels(directory):
    add(directory, "x.jpg", label=None)
    image, label = directory / "images" / "train" / "x.jpg", directory / "labels" / "train" / "x.txt"

    def state():
        return open_split(load_dataset(directory / "d.yaml"), "train").state(image)

    states = [state()]
    label.with_suffix(".TXT").write_text(GOOD)
    states.append(state())
    label.write_text("")
    states.append(state())
    label.write_text(GOOD)
    assert len({*states, state()}) == 4


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("no file", "1 without a label file"),
        ("empty file", "their label files are empty"),
        ("no directory", "there is no directory"),
        ("misspelt", "beside it is label$"),
        ("other case", "beside it is Labels$"),
        ("dangling link", "labels is a link to /gone, which does not exist"),
        ("beside images", "good.txt exists, but labels beside images are read only if no directory above is called"),
        ("xml", "has .xml files; other labels need format: coco or format: voc"),
        ("other names", "the .txt files in .* have other names"),
    ],
)
def test_split_without_labels_is_an_error_that_names_what_is_found(directory, split, change, text):
    labels = directory / "labels" / "train"
    if change == "no file":
        (labels / "good.txt").unlink()
    elif change == "empty file":
        (labels / "good.txt").write_text("\n")
    elif change == "no directory":
        shutil.rmtree(directory / "labels")
    elif change in ("misspelt", "other case"):
        (directory / "labels").rename(directory / {"misspelt": "label", "other case": "Labels"}[change])
    elif change == "dangling link":
        shutil.rmtree(directory / "labels")
        (directory / "labels").symlink_to("/gone")
    elif change == "beside images":
        (labels / "good.txt").rename(directory / "images" / "train" / "good.txt")
    elif change == "xml":
        (labels / "good.txt").rename(labels / "good.xml")
    else:
        (labels / "good.txt").rename(labels / "good_boxes.txt")
    with pytest.raises(DataError, match=text) as caught:
        scan(directory, split)
    assert f"d.yaml: {split}: none of its 1 images has labels" in str(caught.value)
    if change != "empty file":
        index = scan(directory, split, needs_labels=False)
        assert "1 of 1 image without objects: 1 without a label file" in index.messages[0]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda label: label.with_suffix(".TXT").write_text(GOOD), r"x\.TXT: is not read; .* must be called x\.txt"),
        (lambda label: label.with_name("x.jpg.txt").write_text(GOOD), r"x\.jpg\.txt: is not read"),
        (lambda label: label.with_name("X.txt").write_text(GOOD), r"X\.txt: is not read"),
        (lambda label: label.symlink_to("gone.txt"), r"x\.txt: is a link to gone\.txt, which does not exist"),
        (lambda label: label.symlink_to("x.txt"), r"x\.txt: cannot be read: Too many levels of symbolic links"),
        (lambda label: label.mkdir(), r"x\.txt: cannot be read: Is a directory"),
    ],
    ids=["TXT", "jpg.txt", "X.txt", "dangling", "loop", "directory"],
)
def test_image_with_a_near_miss_of_a_label_file_is_no_background(directory, make, text):
    add(directory, "x.jpg", JPEG, label=None)
    make(directory / "labels" / "train" / "x.txt")
    index = scan(directory)
    assert (index.num_images, index.num_corrupt, index.num_backgrounds) == (1, 1, 0)
    (message,) = index.messages[1:]
    assert re.search(text, message)
    assert "Errno" not in message


def test_image_whose_label_file_cannot_be_examined_is_left_out(directory):
    """As in a directory that may not be searched, which root always may: a name that is too long."""
    add(directory, f"{'x' * 252}.sr", JPEG, label=None)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt, index.num_backgrounds) == (1, 1, 0)
    assert "xx.txt: cannot be read: File name too long" in index.messages[1]


def test_label_with_accents_composed_otherwise_is_a_near_miss(directory):
    add(directory, f"{unicodedata.normalize('NFC', 'é')}.jpg", JPEG, label=None)
    add(directory, "n.jpg", JPEG, label=None)
    (directory / "labels" / "train" / f"{unicodedata.normalize('NFD', 'é')}.txt").write_text(GOOD)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (2, 1)
    assert "is not read; the label file of" in index.messages[1]


def test_label_file_of_another_image_is_no_near_miss(directory):
    """x.jpg is a background beside X.jpg, which has labels."""
    add(directory, "X.jpg", JPEG)
    add(directory, "x.jpg", JPEG, label=None)
    index = scan(directory)
    assert (index.num_images, index.num_backgrounds) == (3, 1)


@pytest.mark.parametrize("repaired", ["link", "name", "new link"])
def test_repaired_label_file_causes_a_new_scan(directory, repaired):
    add(directory, "x.jpg", JPEG, label=None)
    label = directory / "labels" / "train" / "x.txt"
    if repaired == "link":
        label.symlink_to(directory / "later.txt")
    assert scan(directory).num_images == (1 if repaired == "link" else 2)
    if repaired == "link":
        (directory / "later.txt").write_text(GOOD)
        assert scan(directory).num_images == 2
    else:
        label.with_suffix(".TXT").write_text(GOOD) if repaired == "name" else label.symlink_to("gone.txt")
        assert scan(directory).num_images == 1, "a background, although its labels have come"


def test_images_without_a_label_file_are_counted_in_every_scan(directory):
    for name in "abcde":
        add(directory, f"{name}.jpg", JPEG, label=None)
    add(directory, "empty.jpg", JPEG, label="")
    for _ in range(2):  # the second from the cache
        (message,) = scan(directory, "val").messages
        assert message.startswith("val: 6 of 7 images without objects: 5 without a label file (")
        assert "a.jpg, " in message and "d.jpg" not in message and message.endswith(", …)")


@pytest.mark.parametrize(
    "content",
    [
        GOOD + GOOD,
        "\n0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5\n0 1.5 0.5 0.5 0.5\n",
        "0 0.2 0.2 0.8 0.3 0.4 0.9\nx\n",
        "",
        b"\xff\xfe0\x00",
        None,
        "near miss",
        "dangling link",
    ],
    ids=["repeated", "invalid", "polygon", "empty", "no text", "missing", "near miss", "link"],
)
def test_each_object_is_that_of_read_or_has_the_problem_that_read_raises(directory, content):
    image, label = directory / "images" / "train" / "good.jpg", directory / "labels" / "train" / "good.txt"
    if content in (None, "near miss", "dangling link"):
        label.unlink()
    if content == "near miss":
        label.with_suffix(".TXT").write_text(GOOD)
    elif content == "dangling link":
        label.symlink_to("gone.txt")
    elif isinstance(content, bytes):
        label.write_bytes(content)
    elif content is not None:
        label.write_text(content)
    reader = open_split(load_dataset(directory / "d.yaml"), "train")

    def all_of_read():
        read = reader.read(image)
        return None if read.is_missing else [pytest.approx(row) for row in read.labels.tolist()]

    def all_of_read_each():
        each = reader.read_each(image)
        for one in each or []:
            assert reader.where(image, one.position) == f"{label}:{one.position}"
            if one.problem:
                raise ValueError(one.problem)
        return None if each is None else [list(row) for row in dict.fromkeys(one.label for one in each)]

    assert outcome(all_of_read_each) == outcome(all_of_read)


def outcome(read):
    """Return what `read` returns, or the text of its error."""
    try:
        return read()
    except (OSError, ValueError) as error:
        return str(error)
