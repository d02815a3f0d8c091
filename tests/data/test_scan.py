"""Scans: every usable image is used, and every other one is counted and named."""

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_sets import HEIGHT, JPEG, NOISE, WIDTH, add, encoded, scan
from PIL import Image

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import scan as scan_module
from hpc_yolo.data.copies import reading_copies
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.images import read_image
from hpc_yolo.data.labels import MAX_PROBLEMS
from hpc_yolo.data.scan import scan_split

RANDOM = np.random.default_rng(0)


def animated(form: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(NOISE), Image.fromarray(NOISE[::-1].copy())]
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    return file.getvalue()


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
        encoded(".png", np.dstack([NOISE, NOISE[:, :, 0]])),
        encoded(".png", NOISE.astype(np.uint16) * 257),
        encoded(".png", NOISE[:, :, 0]),
        JPEG + b"\x00" * 5000,
        JPEG + b"\x00\x00\x00\x18ftypmp42" + RANDOM.bytes(70_000),
        JPEG + JPEG,
    ],
    ids=["png", "webp", "bmp", "tiff", "gif", "anim webp", "apng", "rgba", "16 bit", "grey", "zeros", "motion", "two"],
)
def test_jpg_is_used_for_any_format_and_any_bytes_after_its_end(directory, content):
    add(directory, "x.jpg", content)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt, index.messages) == (2, 0, ())
    assert index.shapes_hw.tolist() == [[HEIGHT, WIDTH]] * 2
    assert read_image(index.paths[1]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_whole_image_is_used_and_half_of_one_is_not(directory, suffix):
    whole = encoded(suffix)
    add(directory, f"whole{suffix}", whole)
    add(directory, f"half{suffix}", whole[: len(whole) // 2])
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
def test_pixels_of_any_depth_are_read_as_three_bytes(directory, pixels):
    path = directory / "images" / "train" / "x.png"
    path.write_bytes(encoded(".png", pixels))
    index = scan(directory)
    read = read_image(index.paths[1])
    assert (read.shape, read.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert index.shapes_hw.tolist() == [[HEIGHT, WIDTH]] * 2


def with_exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Return the JPEG with the shortest EXIF segment that says how the camera was held."""
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + bytes(
        [0, orientation, 0, 0, 0, 0, 0, 0]
    )
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_follow_the_exif_orientation(directory, orientation):
    """Height and width in the plan of validation shapes must be those that reading gives."""
    path = directory / "images" / "train" / "good.jpg"
    path.write_bytes(with_exif_orientation(encoded(".jpg"), orientation))
    index = scan(directory)
    assert index.shapes_hw.tolist() == [[WIDTH, HEIGHT] if orientation >= 5 else [HEIGHT, WIDTH]]
    assert list(read_image(index.paths[0]).shape[:2]) == index.shapes_hw[0].tolist()


def test_jpegs_without_an_end_mark_are_counted_and_cut_off_ones_left_out(directory):
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
    ("content", "text"),
    [
        (b"", "an empty file"),
        (b"<!doctype html><p>404", "an HTML page"),
        (b"\x00" * 999, "nothing but zeros"),
        (b"\x00\x00\x00\x18ftypheic" + b"\x01" * 40, "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (encoded(".png")[:300], "PNG, 300 bytes"),
    ],
)
def test_undecodable_file_is_left_out_and_described(directory, content, text):
    add(directory, "x.jpg", content)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (1, 1)
    assert "x.jpg: cannot be decoded" in index.messages[1] and text in index.messages[1]


def test_image_of_more_pixels_than_opencv_reads_is_left_out(directory):
    """OpenCV raises there instead of returning nothing; a file of 100 bytes can claim ten thousand million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    add(directory, "huge.png", png)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (1, 1)
    assert "huge.png" in index.messages[1]


@pytest.mark.parametrize(("side", "is_usable"), [(9, False), (10, True)])
def test_sides_of_less_than_ten_pixels_are_left_out(directory, side, is_usable):
    add(directory, "thin.png", encoded(".png", NOISE[:side]))
    assert (scan(directory).num_images == 2) is is_usable


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xff\xfe0\x00", "is not text"),
        (b"0 0.5 0.5\n", "x.txt:1: 3 columns"),
        (b"\n\n2 0 0 0 0\n", "x.txt:3: class 2"),
    ],
)
def test_wrong_label_file_leaves_only_its_own_image_out(directory, content, text):
    add(directory, "x.png")
    (directory / "labels" / "train" / "x.txt").write_bytes(content)
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (1, 1)
    assert text in index.messages[1]


def test_wrong_images_are_left_out_and_counted_and_the_others_used(directory):
    add(directory, "missing.jpg", label=None)
    add(directory, "empty.jpg", label="")
    add(directory, "class.jpg", label="7 0.5 0.5 0.5 0.5\n")
    add(directory, "cut.jpg", JPEG[: len(JPEG) // 2])
    add(directory, "noise.jpg", b"\x01" * 100 + b"\xff\xd9")
    add(directory, "tiny.jpg", encoded(".jpg", np.zeros((5, 50, 3), dtype=np.uint8)))
    index = scan(directory)
    assert [Path(name).stem for name in index.paths] == ["empty", "good", "missing"]
    assert (index.num_backgrounds, index.num_corrupt) == (2, 4)
    assert index.shapes_hw.tolist() == [[HEIGHT, WIDTH]] * 3
    text = "\n".join(index.messages)
    for message in (
        *("4 images left out", "class.txt:1: class 7", "cut.jpg: the JPEG is cut off", "noise.jpg: cannot"),
        "tiny.jpg: 50 x 5 pixels",
    ):
        assert message in text
    assert (directory / "images" / "train" / "cut.jpg").read_bytes() == JPEG[: len(JPEG) // 2], "was rewritten"


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("9 0.5 0.5 0.1 0.1\n", r"no image is usable, 1 image left out\n.*good\.txt:1: class 9; the 2 cl"),
        ("", "none of its 1 images has labels"),
    ],
)
def test_split_without_labels_is_an_error(directory, label, message):
    add(directory, "good.jpg", label=label)
    with pytest.raises(DataError, match=f"val: {message}"):
        scan(directory, "val")


def test_single_cls_merges_classes_and_refuses_wrong_ones(directory):
    add(directory, "good.jpg", label="1 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.2 0.2\n")
    add(directory, "wrong.jpg", label="2 0.5 0.5 0.5 0.5\n")
    index = scan_split(load_dataset(directory / "d.yaml", single_cls=True), "train")
    assert [labels[:, 0].tolist() for labels in index.labels] == [[0, 0]]
    assert index.labels[0][:, 1:] == pytest.approx(np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.2, 0.2]]))
    assert "class 2; the 2 classes are 0 to 1" in index.messages[1]


def test_missing_image_of_a_list_is_left_out_and_named(directory):
    (directory / "list.txt").write_text("./images/train/good.jpg\n./images/train/gone.jpg\n")
    (directory / "d.yaml").write_text("train: list.txt\nval: list.txt\nnames: [cat, dog]\n")
    index = scan(directory)
    assert (index.num_images, index.num_corrupt) == (1, 1)
    assert "gone.jpg" in index.messages[1]


def test_dangling_link_is_named_with_its_target(directory):
    (directory / "images" / "train" / "x.jpg").symlink_to("/nowhere/x.jpg")
    assert "x.jpg: is a link to /nowhere/x.jpg, which does not exist" in scan(directory).messages[1]


def test_messages_name_the_first_wrong_images_and_count_the_others(directory):
    for number in range(MAX_PROBLEMS + 5):
        add(directory, f"bad{number}.png", b"no image")
    index = scan(directory)
    assert index.num_corrupt == MAX_PROBLEMS + 5
    assert len(index.messages) == MAX_PROBLEMS + 2
    assert index.messages[-1] == "… and 5 more"


def test_opencv_prints_nothing(directory, capfd):
    """Its messages on damaged files would be between ours."""
    add(directory, "x.tif", encoded(".tif")[:900])
    add(directory, "y.bmp", encoded(".bmp")[:900])
    assert scan(directory).num_corrupt == 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", bytes(len(JPEG)), JPEG[: len(JPEG) // 2], JPEG[:-2]])
def test_damaged_copy_on_the_node_changes_nothing(directory, tmp_path, content):
    """The result is cached beside the labels for all later runs."""
    add(directory, "x.jpg")
    copies = Path(f"{tmp_path}/copies{directory}/images/train")
    copies.mkdir(parents=True)
    for image in (directory / "images" / "train").iterdir():
        (copies / image.name).write_bytes(content)
    with reading_copies(f"{tmp_path}/copies"):
        index = scan(directory)
    assert (index.num_images, index.num_corrupt, index.messages) == (2, 0, ())
    assert index.shapes_hw.tolist() == [[HEIGHT, WIDTH]] * 2


def test_progress_is_reported_once_for_every_image(directory):
    for number in range(5):
        add(directory, f"{number}.png")
    calls = []
    scan(directory, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]
    scan(directory, on_progress=lambda done, total: calls.append("again"))
    assert "again" not in calls, "a cached scan takes no time"


def test_ctrl_c_ends_a_scan_without_reading_the_rest(directory, monkeypatch):
    """A scan of a large set takes minutes; images that wait for a thread must not be read first."""
    num_images = 300
    for number in range(num_images):
        add(directory, f"{number}.png", label=None)
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


def test_failure_of_the_file_system_leaves_no_image_out(directory):
    """The cache, which other runs and users read, would lack the image for as long as no file changes."""
    image = directory / "images" / "train" / "x.jpg"
    add(directory, "x.jpg")
    image.unlink()
    image.symlink_to("/proc/self/mem")  # whose first page cannot be read
    with pytest.raises(DataError, match="Input/output error") as raised:
        scan(directory)
    assert "try again" in str(raised.value)
    assert not list(directory.rglob("*.npz"))
    image.unlink()
    image.write_bytes(JPEG)
    assert scan(directory).num_images == 2
