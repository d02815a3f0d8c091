"""What people's datasets are like: damaged or shared caches, names that YAML would change, images of odd form."""

import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import scan as scan_module
from hpc_yolo.data import scan_cache as cache_module
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.spec.schema import Hyperparameters


@pytest.fixture
def directory(tmp_path):
    """A dataset of two labelled images."""
    root = tmp_path / "set"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 60, 3), dtype=np.uint8)
    for name in ("one", "two"):
        cv2.imwrite(str(root / "images" / "train" / f"{name}.jpg"), pixels)
        (root / "labels" / "train" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    return root


def as_plain(index) -> tuple:
    return index.paths, index.shapes_hw.tolist(), [rows.tolist() for rows in index.labels], index.messages


def count_decodes(monkeypatch) -> list[Path]:
    decoded, real = [], scan_module._image_shape
    monkeypatch.setattr(scan_module, "_image_shape", lambda image: decoded.append(image) or real(image))
    return decoded


def write_names(directory: Path, names: str) -> Path:
    path = directory / "d.yaml"
    path.write_text(f"train: images/train\nval: images/train\nnames: {names}\n")
    return path


def npz(**arrays) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def npy() -> bytes:
    packed = io.BytesIO()
    np.save(packed, np.zeros(3))
    return packed.getvalue()


@pytest.mark.parametrize(
    "content", [npy(), npz(header=np.frombuffer(b"[1]", dtype=np.uint8))], ids=["one array", "another header"]
)
def test_a_foreign_cache_is_made_anew(directory, content):
    dataset = load_dataset(directory / "d.yaml")
    expected = as_plain(scan_split(dataset, "train"))
    (cache,) = (directory / "labels").glob(".*.npz")
    cache.write_bytes(content)
    assert as_plain(scan_split(dataset, "train")) == expected


def test_no_flipped_byte_of_a_cache_stops_a_run_or_changes_a_label(directory):
    """Damage shows as errors of zip, zlib, numpy and json, of a dozen kinds."""
    dataset = load_dataset(directory / "d.yaml")
    expected = as_plain(scan_split(dataset, "train"))
    (cache,) = (directory / "labels").glob(".*.npz")
    whole = cache.read_bytes()
    with np.load(cache) as arrays:
        key = json.loads(arrays["header"].tobytes())["key"]
    for position in range(len(whole)):
        cache.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        found = cache_module._read_cache(cache, key)
        assert found is None or as_plain(found) == expected


def test_where_no_lock_can_be_had_a_cache_that_is_there_still_counts(directory, monkeypatch):
    """A dataset of another person, read-only: else every rank of every attempt reads all of it again."""
    dataset = load_dataset(directory / "d.yaml")
    scan_split(dataset, "train")
    lock = directory / "labels" / ".train.hpc-yolo.lock"
    lock.unlink()
    lock.mkdir()  # root may write anywhere, but not here
    decoded = count_decodes(monkeypatch)
    scan_split(dataset, "train")
    assert decoded == []


def test_splits_that_begin_alike_do_not_undo_each_others_cache(directory, monkeypatch):
    """Rank 0 reads train, then val; the other ranks must still find train."""
    for kind in ("images", "labels"):
        shutil.copytree(directory / kind / "train", directory / kind / "more")
    (directory / "d.yaml").write_text("train: [images/train, images/more]\nval: images/train\nnames: [cat, dog]\n")
    dataset = load_dataset(directory / "d.yaml")
    for split in ("train", "val"):
        scan_split(dataset, split)
    decoded = count_decodes(monkeypatch)
    for split in ("train", "val"):
        scan_split(dataset, split)
    assert decoded == []


def test_a_image_of_more_pixels_than_opencv_reads_is_left_out(directory):
    """OpenCV raises there instead of returning nothing; a file of 100 bytes can claim ten thousand million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (directory / "images" / "train" / "huge.png").write_bytes(png)
    index = scan_split(load_dataset(directory / "d.yaml"), "train")
    assert (index.num_images, index.num_corrupt) == (2, 1)
    assert "huge.png" in index.messages[1]


def test_images_behind_links_and_only_files_are_found(directory):
    """Large sets are often directories of links to another disk; a link back up must not go round for ever."""
    far = directory.parent / "far"
    (directory / "images" / "train").rename(far)
    (directory / "images" / "train").mkdir()
    (directory / "images" / "train" / "part").symlink_to(far)
    (far / "round").symlink_to(directory / "images" / "train")
    (far / "directory.jpg").mkdir()
    found = find_images(load_dataset(directory / "d.yaml").train).paths
    assert [path.name for path in found] == ["one.jpg", "two.jpg"]


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("[yes, no, off, on]", ("yes", "no", "off", "on")),
        ("[007, 1e3, 1.0]", ("007", "1e3", "1.0")),
        ("{0: no, 1: null}", ("no", "null")),
        ("{'1': b, '0': a}", ("a", "b")),
    ],
)
def test_names_are_as_written_and_not_as_yaml_takes_them(directory, written, names):
    assert load_dataset(write_names(directory, written)).names == names


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{0: a, x: b}", "neither a list of names nor numbers"),
        ("{0: a, 2: b}", "neither a list of names nor numbers"),
        ("{0: a, 0: b}", "a key is written twice"),
        ("[a]\nnames: [b]", "a key is written twice"),
    ],
)
def test_names_that_make_no_list_are_refused(directory, written, words):
    with pytest.raises(DataError, match=words):
        load_dataset(write_names(directory, written))


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_a_key_left_empty_is_as_none(directory, value):
    path = write_names(directory, "[a]")
    path.write_text(path.read_text() + f"path: {value}\ntest: {value}\n")
    dataset = load_dataset(path)
    assert (dataset.test, dataset.train) == ((), (directory / "images" / "train",))


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10)], ids=["wide", "tall"])
def test_a_sliver_of_a_image_keeps_a_pixel_of_width(directory, shape):
    """10 x 1000 pixels at size 64 come to 0.64 of a pixel."""
    cv2.imwrite(str(directory / "images" / "train" / "sliver.png"), np.zeros((*shape, 3), dtype=np.uint8))
    index = scan_split(load_dataset(directory / "d.yaml"), "train")
    options = {"imgsz": 64, "batch": 3, "rank": 0, "world_size": 1, "workers": 0}
    for hyp in (Hyperparameters(), Hyperparameters(mosaic=0)):
        (batch,) = TrainingLoader(index, hyp=hyp, seed=0, **options).epoch(0)
        assert batch.images.shape == (3, 3, 64, 64)
    assert sum(len(batch.indices) for batch in ValidationLoader(index, stride=32, **options)) == 3


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_an_error_in_a_worker_reads_as_without_workers(directory, kind):
    """torch buries what a worker raises in a page of traceback, and loses the hint."""
    index = scan_split(load_dataset(directory / "d.yaml"), "train")
    for path in index.paths:
        os.truncate(path, 200)
    options = {"imgsz": 64, "batch": 2, "rank": 0, "world_size": 1}
    said = []
    for workers in (0, 1):
        if kind == "training":
            hyp = Hyperparameters(mosaic=0)
            batches = TrainingLoader(index, hyp=hyp, seed=0, workers=workers, **options).epoch(0)
        else:
            batches = iter(ValidationLoader(index, stride=32, workers=workers, **options))
        with pytest.raises(DataError) as caught:
            next(batches)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert len(said[1].splitlines()) == 1


@pytest.mark.parametrize(
    "changes", [{"image_size": (20, 240)}, {"image_size": (320, 27)}, {"num_train": 0}, {"num_val": -1}], ids=str
)
def test_a_set_that_cannot_be_drawn_is_refused_before_anything_is_made(tmp_path, changes):
    with pytest.raises(DataError, match="are needed"):
        write_shapes_dataset(tmp_path / "set", **{"num_train": 1, "num_val": 1, **changes})
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_set_is_named(tmp_path):
    (tmp_path / "set").touch()
    with pytest.raises(DataError, match="is a file"):
        write_shapes_dataset(tmp_path / "set", num_train=1, num_val=1)
