"""Scans of real image files of many kinds, and a cache that can only save time, never change what is read."""

import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpc_yolo.data import scan as scan_module
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_labels import read_labels
from hpc_yolo.data.images import read_image
from hpc_yolo.data.labels import MAX_PROBLEMS
from hpc_yolo.data.scan import scan_split

GOOD = "0 0.5 0.5 0.5 0.5\n"
HEIGHT, WIDTH = 40, 60
NOISE = np.random.default_rng(0).integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def directory(tmp_path):
    """A dataset with one good labelled image, images/train/good.jpg; tests add to it."""
    root = tmp_path / "set"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    cv2.imwrite(str(root / "images" / "train" / "good.jpg"), NOISE)
    (root / "labels" / "train" / "good.txt").write_text(GOOD)
    (root / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    return root


def scan(directory: Path, split: str = "train", **options):
    return scan_split(load_dataset(directory / "d.yaml"), split, **options)


def encoded(suffix: str, pixels=NOISE) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def with_exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with the shortest EXIF segment that says how the camera was held."""
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + bytes(
        [0, orientation, 0, 0, 0, 0, 0, 0]
    )
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_a_whole_image_is_taken_and_half_of_one_is_not(directory, suffix):
    whole = encoded(suffix)
    (directory / "images" / "train" / f"whole{suffix}").write_bytes(whole)
    (directory / "images" / "train" / f"half{suffix}").write_bytes(whole[: len(whole) // 2])
    index = scan(directory)
    assert [Path(path).stem for path in index.paths] == ["good", "whole"]
    assert index.num_corrupt == 1
    assert f"half{suffix}" in index.messages[1]
    assert (directory / "images" / "train" / f"half{suffix}").read_bytes() == whole[: len(whole) // 2], (
        "rewritten on disk"
    )


@pytest.mark.parametrize(
    "pixels",
    [NOISE[:, :, 0], (NOISE.astype(np.uint16) * 257), np.dstack([NOISE, NOISE[:, :, 0]])],
    ids=["grey", "16 bit", "alpha"],
)
def test_any_kind_of_pixels_comes_as_three_colours_of_a_byte(directory, pixels):
    path = directory / "images" / "train" / "x.png"
    path.write_bytes(encoded(".png", pixels))
    index = scan(directory)
    read = read_image(index.paths[1])
    assert (read.shape, read.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert index.shapes_hw.tolist() == [[HEIGHT, WIDTH]] * 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_image_as_the_camera_was_held(directory, orientation):
    """Height and width in the plan of validation shapes must be those that reading gives."""
    path = directory / "images" / "train" / "good.jpg"
    path.write_bytes(with_exif_orientation(encoded(".jpg"), orientation))
    index = scan(directory)
    assert index.shapes_hw.tolist() == [[WIDTH, HEIGHT] if orientation >= 5 else [HEIGHT, WIDTH]]
    assert list(read_image(index.paths[0]).shape[:2]) == index.shapes_hw[0].tolist()


def test_notes_that_a_camera_appends_are_no_damage(directory):
    path = directory / "images" / "train" / "good.jpg"
    path.write_bytes(path.read_bytes() + b"\x00" * 1000)
    assert scan(directory).num_corrupt == 0


@pytest.mark.parametrize(("side", "is_usable"), [(9, False), (10, True)])
def test_ten_pixels_are_the_least_side(directory, side, is_usable):
    cv2.imwrite(str(directory / "images" / "train" / "thin.png"), NOISE[:side])
    assert (scan(directory).num_images == 2) is is_usable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe0\x00", "is not text"),
        (b"0 0.5 0.5\n", "x.txt:1: 3 columns"),
        (b"\n\n2 0 0 0 0\n", "x.txt:3: class 2"),
    ],
)
def test_bad_label_files_leave_only_their_own_image_out(directory, content, words):
    (directory / "images" / "train" / "x.png").write_bytes(encoded(".png"))
    (directory / "labels" / "train" / "x.txt").write_bytes(content)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (1, 1)
    assert words in index.messages[1]


def test_many_bad_images_do_not_flood_the_screen(directory):
    for number in range(MAX_PROBLEMS + 5):
        (directory / "images" / "train" / f"bad{number}.png").write_bytes(b"no image")
    index = scan(directory)
    assert index.num_corrupt == MAX_PROBLEMS + 5
    assert len(index.messages) == MAX_PROBLEMS + 2
    assert index.messages[-1] == "… and 5 more"


def test_a_image_that_a_list_names_and_nobody_has_is_left_out_by_name(directory):
    (directory / "list.txt").write_text("./images/train/good.jpg\n./images/train/gone.jpg\n")
    (directory / "d.yaml").write_text("train: list.txt\nval: list.txt\nnames: [cat, dog]\n")
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (1, 1)
    assert "gone.jpg" in index.messages[1]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("\n  \n", []),
        ("0 0 0 0 0\n1 1 1 1 1", [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]),
        ("1.0\t0.5 0.5  5e-1 0.25\r\n", [[1, 0.5, 0.5, 0.5, 0.25]]),
        (
            "1 0.9 0.5 0.1 0.1\n0 0.1 0.5 0.1 0.1\n1 0.9 0.5 0.1 0.1\n",
            [[1, 0.9, 0.5, 0.1, 0.1], [0, 0.1, 0.5, 0.1, 0.1]],
        ),
        ("0 0 0 1 0 1 1 0 1\n", [[0, 0.5, 0.5, 1, 1]]),
    ],
    ids=["empty", "blank", "edges", "any number form", "once and in order", "polygon"],
)
def test_forms_of_good_labels(tmp_path, text, rows):
    path = tmp_path / "x.txt"
    path.write_bytes(text.encode())
    assert read_labels(path, 2)[0] == pytest.approx(np.array(rows, dtype=np.float32).reshape(-1, 5))


def test_progress_is_told_for_every_image_once(directory):
    for number in range(5):
        cv2.imwrite(str(directory / "images" / "train" / f"{number}.png"), NOISE)
    told = []
    scan(directory, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]
    scan(directory, on_progress=lambda done, total: told.append("again"))
    assert "again" not in told, "a cached scan takes no time"


def test_ctrl_c_ends_a_scan_without_reading_the_rest(directory, monkeypatch):
    """A scan of a large set takes minutes; images that wait for a thread must not be read first."""
    num_images = 300
    for number in range(num_images):
        (directory / "images" / "train" / f"{number}.png").write_bytes(encoded(".png"))
    read, go_on = [], threading.Event()

    def count(image: Path) -> tuple[int, int]:
        read.append(image)
        if len(read) > 1:
            go_on.wait(10)
        return HEIGHT, WIDTH

    def interrupt(_done: int, _total: int) -> None:
        go_on.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(scan_module, "_image_shape", count)
    with pytest.raises(KeyboardInterrupt):
        scan(directory, on_progress=interrupt)
    assert len(read) < num_images
    assert not list((directory / "labels").glob(".*.npz")), "half a scan was kept"


def no_scan(*_):
    raise AssertionError("scanned in spite of the cache")


@pytest.mark.parametrize("change", ["image", "label", "new label", "new image", "class", "lost label"])
def test_any_change_of_files_or_names_makes_a_new_scan(directory, change, monkeypatch):
    images, labels = directory / "images" / "train", directory / "labels" / "train"
    for name in ("plain", "labelled"):
        (images / f"{name}.png").write_bytes(encoded(".png"))
    (labels / "labelled.txt").write_text(GOOD)
    scan(directory)
    with monkeypatch.context() as patch:
        patch.setattr(scan_module, "_scan", no_scan)
        scan(directory)
    if change == "image":
        (images / "plain.png").write_bytes(encoded(".png", NOISE[:20]))
    elif change == "label":
        (labels / "good.txt").write_text("1 0.25 0.5 0.5 0.5\n")
    elif change == "new label":
        (labels / "plain.txt").write_text(GOOD)
    elif change == "new image":
        (images / "another.png").write_bytes(encoded(".png"))
    elif change == "class":
        (directory / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog, cow]\n")
    else:
        (labels / "labelled.txt").unlink()
    called = []
    real = scan_module._scan
    monkeypatch.setattr(scan_module, "_scan", lambda *words: called.append(1) or real(*words))
    scan(directory)
    assert called


def test_a_class_changed_to_another_of_one_digit_is_noticed(directory):
    """The file keeps its size; only its time tells. Set here, because clocks of file systems are coarse."""
    label = directory / "labels" / "train" / "good.txt"
    scan(directory)
    label.write_text(GOOD.replace("0 ", "1 ", 1))
    os.utime(label, ns=(label.stat().st_atime_ns, label.stat().st_mtime_ns + 1))
    assert scan(directory).labels[0][0, 0] == 1


def test_a_split_of_backgrounds_and_warnings_comes_out_of_the_cache_as_it_went_in(directory, monkeypatch):
    """Shares of labels are cut at counts, of which many may be zero."""
    (directory / "labels" / "train" / "good.txt").unlink()
    (directory / "images" / "train" / "bad.png").write_bytes(b"")
    (directory / "images" / "train" / "more.png").write_bytes(encoded(".png"))
    first = scan(directory, "val", needs_labels=False)
    monkeypatch.setattr(scan_module, "_scan", no_scan)
    again = scan(directory, "val", needs_labels=False)
    assert (again.paths, again.messages) == (first.paths, first.messages)
    assert (again.num_backgrounds, again.num_corrupt) == (first.num_backgrounds, first.num_corrupt) == (2, 1)
    for index in (first, again):
        assert [(rows.shape, rows.dtype) for rows in index.labels] == [((0, 5), np.float32)] * 2
        assert (index.shapes_hw.shape, index.shapes_hw.dtype) == ((2, 2), np.int32)


def test_a_cache_holds_no_pickle(directory):
    """Reading a pickle runs what is in it, and dataset directories are shared."""
    scan(directory)
    (cache,) = (directory / "labels").glob(".*.npz")
    with np.load(cache, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_a_cache_can_be_read_by_the_whole_group(directory):
    scan(directory)
    (cache,) = (directory / "labels").glob(".*.npz")
    assert cache.stat().st_mode & 0o044 == 0o044
