"""Scans of sets in which something is amiss: all that can be used is used, and all else is counted and named."""

import io
import re
import shutil
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import scan_cache
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.images import read_image
from hpc_yolo.data.scan import scan_split

HEIGHT, WIDTH = 60, 80
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
GOOD = "0 0.5 0.5 0.5 0.5\n"


def encoded(suffix: str, pixels=PIXELS) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def animated(form: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())]
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    return file.getvalue()


JPEG = encoded(".jpg")


@pytest.fixture
def directory(tmp_path):
    """A dataset with one good labelled image, images/train/good.jpg; tests add to it."""
    root = tmp_path / "set"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    add(root, "good.jpg", JPEG)
    (root / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    return root


def add(root, name: str, content: bytes, label: str | None = GOOD) -> None:
    (root / "images" / "train" / name).write_bytes(content)
    if label is not None:
        (root / "labels" / "train" / f"{name.rpartition('.')[0]}.txt").write_text(label)


def scan(root, split: str = "train", **options):
    return scan_split(load_dataset(root / "d.yaml"), split, **options)


@pytest.mark.parametrize(
    "content",
    [
        encoded(".png"),
        encoded(".webp"),
        encoded(".bmp"),
        encoded(".tif"),
        animated("GIF"),
        animated("WEBP"),
        animated("PNG"),
        encoded(".png", np.dstack([PIXELS, PIXELS[:, :, 0]])),
        encoded(".png", PIXELS.astype(np.uint16) * 257),
        encoded(".png", PIXELS[:, :, 0]),
        JPEG + b"\x00" * 5000,
        JPEG + b"\x00\x00\x00\x18ftypmp42" + RANDOM.bytes(70_000),
        JPEG + JPEG,
    ],
    ids=["png", "webp", "bmp", "tiff", "gif", "anim webp", "apng", "rgba", "16 bit", "grey", "zeros", "motion", "two"],
)
def test_a_jpg_is_used_whatever_its_format_and_whatever_follows_its_end(directory, content):
    add(directory, "x.jpg", content)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt, index.messages) == (2, 0, ())
    assert index.shapes_hw.tolist() == [[HEIGHT, WIDTH]] * 2
    assert read_image(index.paths[1]).shape == (HEIGHT, WIDTH, 3)


def test_jpegs_without_an_end_mark_are_counted_and_named_and_cut_off_ones_left_out(directory):
    for name in ("a", "b"):
        add(directory, f"{name}.jpg", JPEG.removesuffix(b"\xff\xd9"))
    add(directory, "cut.jpg", JPEG[: len(JPEG) // 2])
    add(directory, "padded.jpg", JPEG[: len(JPEG) // 2] + b"\x00" * 9000)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (3, 2)
    assert index.messages[0] == "train: 2 images left out:"
    assert "cut.jpg: the JPEG is cut off" in index.messages[1]
    assert "padded.jpg: the JPEG is cut off" in index.messages[2]
    assert "train: 2 JPEG files without an end mark, used because all pixels are there" in index.messages[3]
    assert "a.jpg" in index.messages[3] and "b.jpg" in index.messages[3]
    assert np.array_equal(read_image(index.paths[0]), read_image(index.paths[2])), "pixels differ from the whole file's"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"<!doctype html><p>404", "an HTML page"),
        (b"\x00" * 999, "nothing but zeros"),
        (b"\x00\x00\x00\x18ftypheic" + b"\x01" * 40, "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (encoded(".png")[:300], "PNG, 300 bytes"),
    ],
)
def test_a_file_that_is_no_image_is_left_out_and_named_for_what_it_is(directory, content, words):
    add(directory, "x.jpg", content)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (1, 1)
    assert "x.jpg: cannot be decoded" in index.messages[1] and words in index.messages[1]


def test_a_cache_of_an_older_version_is_not_believed(directory, monkeypatch):
    """It left out PNG files named .jpg."""
    add(directory, "x.jpg", encoded(".png"))
    monkeypatch.setattr("hpc_yolo.data.scan.CACHE_VERSION", 2)
    monkeypatch.setattr("hpc_yolo.data.scan.decode_image", lambda content: None if content[:1] == b"\x89" else PIXELS)
    assert scan(directory).num_images == 1
    monkeypatch.undo()
    assert scan(directory).num_images == 2


def test_another_version_of_the_decoder_looks_again(directory, monkeypatch):
    """Each reads other formats; what one could not decode, the next may."""
    scan(directory)
    kept = scan_cache._read_cache
    monkeypatch.setattr("cv2.__version__", "99.0")
    read = []
    monkeypatch.setattr(scan_cache, "_read_cache", lambda path, key: read.append(kept(path, key)) or read[-1])
    scan(directory)
    assert read == [None]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no file", "1 without a label file"),
        ("empty file", "their label files are empty"),
        ("no directory", "there is no directory"),
        ("misspelt", "beside it is label$"),
        ("other case", "beside it is Labels$"),
        ("dangling link", "labels is a link to /gone, which is not there"),
        ("beside images", "good.txt is there: labels beside images are read only where no directory above is called"),
        ("xml", "has .xml files, and other label formats are not read"),
        ("other names", "the .txt files in .* have other names"),
    ],
)
def test_a_split_without_labels_is_an_error_that_says_what_lies_there(directory, split, change, words):
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
    with pytest.raises(DataError, match=words) as caught:
        scan(directory, split)
    assert f"d.yaml: {split}: none of its 1 images has labels" in str(caught.value)
    if change != "empty file":
        index = scan(directory, split, needs_labels=False)
        assert "1 of 1 image without objects: 1 without a label file" in index.messages[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda label: label.with_suffix(".TXT").write_text(GOOD), r"x\.TXT: is not read; .* must be called x\.txt"),
        (lambda label: label.with_name("x.jpg.txt").write_text(GOOD), r"x\.jpg\.txt: is not read"),
        (lambda label: label.with_name("X.txt").write_text(GOOD), r"X\.txt: is not read"),
        (lambda label: label.symlink_to("gone.txt"), r"x\.txt: is a link to gone\.txt, which is not there"),
        (lambda label: label.symlink_to("x.txt"), r"x\.txt: cannot be read: Too many levels of symbolic links"),
        (lambda label: label.mkdir(), r"x\.txt: cannot be read: Is a directory"),
    ],
    ids=["TXT", "jpg.txt", "X.txt", "dangling", "loop", "directory"],
)
def test_an_image_whose_labels_are_there_in_another_way_is_no_background(directory, make, words):
    add(directory, "x.jpg", JPEG, label=None)
    make(directory / "labels" / "train" / "x.txt")
    index = scan(directory)
    assert (index.num_images, index.num_corrupt, index.num_backgrounds) == (1, 1, 0)
    (message,) = index.messages[1:]
    assert re.search(words, message)
    assert "Errno" not in message


def test_a_label_with_accents_composed_otherwise_is_a_near_miss(directory):
    add(directory, f"{unicodedata.normalize('NFC', 'é')}.jpg", JPEG, label=None)
    add(directory, "n.jpg", JPEG, label=None)
    (directory / "labels" / "train" / f"{unicodedata.normalize('NFD', 'é')}.txt").write_text(GOOD)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (2, 1)
    assert "is not read; the label file of" in index.messages[1]


def test_opencv_prints_nothing_of_its_own(directory, capfd):
    """What it says of damaged files stands between our messages, in no language that a person speaks."""
    add(directory, "x.tif", encoded(".tif")[:900])
    add(directory, "y.bmp", encoded(".bmp")[:900])
    assert scan(directory).num_corrupt == 2
    assert capfd.readouterr().err == ""


def test_a_label_file_of_another_image_is_no_near_miss(directory):
    """x.jpg is a background beside X.jpg, which has labels."""
    add(directory, "X.jpg", JPEG)
    add(directory, "x.jpg", JPEG, label=None)
    index = scan(directory)
    assert (index.num_images, index.num_backgrounds) == (3, 1)


@pytest.mark.parametrize("mended", ["link", "name"])
def test_a_label_that_is_mended_makes_a_new_scan(directory, mended):
    add(directory, "x.jpg", JPEG, label=None)
    label = directory / "labels" / "train" / "x.txt"
    if mended == "link":
        label.symlink_to(directory / "later.txt")
    assert scan(directory).num_images == (1 if mended == "link" else 2)
    if mended == "link":
        (directory / "later.txt").write_text(GOOD)
        assert scan(directory).num_images == 2
    else:
        label.with_suffix(".TXT").write_text(GOOD)
        assert scan(directory).num_images == 1, "a background, although its labels have come"


def test_an_image_that_is_a_dangling_link_is_named_with_its_target(directory):
    (directory / "images" / "train" / "x.jpg").symlink_to("/nowhere/x.jpg")
    assert "x.jpg: is a link to /nowhere/x.jpg, which is not there" in scan(directory).messages[1]


def test_images_without_a_label_file_are_counted_in_every_scan(directory):
    for name in "abcde":
        add(directory, f"{name}.jpg", JPEG, label=None)
    add(directory, "empty.jpg", JPEG, label="")
    for _ in range(2):  # the second from the cache
        (message,) = scan(directory, "val").messages
        assert message.startswith("val: 6 of 7 images without objects: 5 without a label file (")
        assert "a.jpg, " in message and "d.jpg" not in message and message.endswith(", …)")


def test_all_classes_out_of_range_are_an_error_with_the_first_lines(directory):
    add(directory, "good.jpg", JPEG, label="5 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"val: no image is usable, 1 image left out\n.*good\.txt:1: class 5; the 2 cl"):
        scan(directory, "val")
