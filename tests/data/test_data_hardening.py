"""Files as other systems write them and disks that fail: nothing is lost in silence or ends in a traceback."""

import gc
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE_S

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import augment
from hpc_yolo.data import scan as scan_module
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_labels import read_labels
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.evaluation.evaluator import to_original_pixels
from hpc_yolo.spec.schema import Hyperparameters

QUICK = settings(deadline=None, database=None, derandomize=True, max_examples=40)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
STILL = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "flipud": 0, "fliplr": 0}


@pytest.fixture
def directory(tmp_path):
    """A drawn set of four training images and one for validation."""
    return write_shapes_dataset(tmp_path / "set", num_train=4, num_val=1, image_size=(96, 64)).parent


def make_samples(index, **hyp):
    source = ImageFiles(index.paths, 32, augment=True)
    return TrainingSamples(index, source, imgsz=32, hyp=Hyperparameters(**hyp), seed=0)


def test_a_label_file_from_notepad_is_read(tmp_path):
    """Windows puts a byte order mark in front, which is no part of the first class."""
    (tmp_path / "x.txt").write_bytes(BYTE_ORDER_MARK + b"1 0.5 0.5 0.25 0.25\r\n")
    assert read_labels(tmp_path / "x.txt", 2)[0].tolist() == [[1, 0.5, 0.5, 0.25, 0.25]]


def test_a_list_from_notepad_keeps_its_first_image(directory):
    listed = directory / "list.txt"
    listed.write_bytes(BYTE_ORDER_MARK + b"./images/train/00000.jpg\r\n./images/train/00001.jpg\r\n")
    assert all(path.is_file() for path in find_images((listed,)).paths)


@pytest.mark.parametrize("number", ["1.0000001", "-1e-9", "1.05"])
def test_a_coordinate_just_outside_is_outside(tmp_path, number):
    (tmp_path / "x.txt").write_text(f"0 0.5 0.5 {number} 0.5\n")
    with pytest.raises(ValueError, match=r"x\.txt:1: coordinate"):
        read_labels(tmp_path / "x.txt", 1)


def test_images_with_names_of_an_old_code_page_are_read_and_cached(directory, monkeypatch):
    """An archive packed on Windows gives names that are no UTF-8; Python holds them as lone surrogates."""
    for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
        old = directory / kind / "train" / f"00000{suffix}"
        old.rename(old.with_name(os.fsdecode(b"gr\xfcn" + suffix.encode())))
    dataset = load_dataset(directory / "dataset.yaml")
    first = scan_split(dataset, "train")
    assert (first.num_images, first.num_corrupt, first.num_backgrounds) == (4, 0, 0)
    monkeypatch.setattr(scan_module, "_scan", lambda *_: pytest.fail("scanned in spite of the cache"))
    assert scan_split(dataset, "train").paths == first.paths
    hyp = Hyperparameters()
    options = {"imgsz": 64, "batch": 4, "rank": 0, "world_size": 1, "workers": 0}
    assert len(list(TrainingLoader(first, hyp=hyp, seed=0, **options).epoch(0))) == 1


def test_a_directory_that_cannot_be_listed_is_an_error_and_not_a_smaller_set(directory, monkeypatch):
    """os.walk passes over it without a word. Root may list anything, so the refusal is put in by hand."""
    (directory / "images" / "train" / "private").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="private: cannot be listed: Permission denied"):
        find_images(load_dataset(directory / "dataset.yaml").train)


@pytest.mark.parametrize("largest_bytes", [0, 1000])
def test_a_full_disk_is_told_in_words_and_leaves_nothing(tmp_path, largest_bytes):
    """A limit on the size of files acts as a full disk does: writes fail half way."""
    program = (
        "import resource, sys; from pathlib import Path; from hpc_yolo.data.synth import write_shapes_dataset\n"
        "from hpc_yolo.core.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try: write_shapes_dataset(Path(sys.argv[1]), num_train=2, num_val=1)\n"
        "except DataError as error: sys.stderr.write(str(error)); sys.exit(3)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "set"), str(largest_bytes)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stderr and "is the disk full?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_somebody_fills_meanwhile_is_left_alone(tmp_path):
    """Two who draw into one place at once: the second to end must not lose its way in a traceback."""

    def disturb(_done: int, _total: int) -> None:
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / "theirs").touch()

    with pytest.raises(DataError, match="set: cannot be written"):
        write_shapes_dataset(tmp_path / "set", num_train=1, num_val=1, image_size=(96, 96), on_progress=disturb)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["theirs"]


def test_workers_end_with_their_loader_when_a_image_is_lost(directory):
    """An error that held its own frame would keep workers alive until a collection, and that for five seconds more."""
    index = scan_split(load_dataset(directory / "dataset.yaml"), "train")
    for path in index.paths:
        os.truncate(path, 100)
    hyp = Hyperparameters()
    loader = TrainingLoader(index, imgsz=64, batch=2, hyp=hyp, seed=0, rank=0, world_size=1, workers=1)
    batches = loader.epoch(0)
    (worker,) = loader._loader._iterator._workers
    gc.disable()
    try:
        try:
            next(batches)
        except DataError:
            lost = True
        del batches, loader
        worker.join(timeout=PATIENCE_S)
        assert lost and worker.exitcode == 0
    finally:
        gc.enable()


@QUICK
@given(
    sizes=st.lists(st.tuples(st.integers(10, 300), st.integers(10, 300)), min_size=1, max_size=3),
    box=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.1, 0.4), st.floats(0.1, 0.4)),
    imgsz=st.sampled_from([64, 96]),
)
def test_validation_boxes_of_any_image_lead_back_to_its_own_pixels(tmp_path_factory, sizes, box, imgsz):
    """Wide, tall, smaller and larger than the batch: sizes are cut to whole pixels twice on the way."""
    directory = tmp_path_factory.mktemp("odd")
    paths = tuple(str(directory / f"{number}.png") for number in range(len(sizes)))
    for path, (height, width) in zip(paths, sizes, strict=True):
        cv2.imwrite(path, np.zeros((height, width, 3), dtype=np.uint8))
    rows = (np.array([[0, *box]], dtype=np.float32),) * len(sizes)
    index = ImageIndex(paths, np.array(sizes, dtype=np.int32), rows, 0, 0, ())
    for batch in ValidationLoader(index, imgsz=imgsz, batch=2, stride=32, rank=0, world_size=1, workers=0):
        batch_h, batch_w = batch.images.shape[2:]
        for position, image in enumerate(batch.indices.tolist()):
            own = batch.targets[batch.targets[:, 0] == position][:, 2:]
            corners = torch.cat((own[:, :2] - own[:, 2:] / 2, own[:, :2] + own[:, 2:] / 2), dim=1)
            back = to_original_pixels(corners * torch.tensor([batch_w, batch_h] * 2), batch.shapes[position])
            height, width = sizes[image]
            cx, cy, w, h = box
            expected = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
            assert back[0].tolist() == pytest.approx(expected, abs=1)


def test_a_validation_image_is_shrunk_by_area_and_never_enlarged_to_its_frame(tmp_path):
    """The frame of a square image at 64 has 96 pixels; filling it would change every published figure."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(200, 200, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), pixels)
    rows = np.zeros((0, 5), dtype=np.float32)
    index = ImageIndex((str(tmp_path / "x.png"),), np.array([[200, 200]], dtype=np.int32), (rows,), 1, 0, ())
    (batch,) = ValidationLoader(index, imgsz=64, batch=1, stride=32, rank=0, world_size=1, workers=0)
    framed = np.full((96, 96, 3), 114, dtype=np.uint8)
    framed[16:80, 16:80] = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
    assert (batch.images[0].numpy() == framed.transpose(2, 0, 1)[::-1]).all()


def test_a_blended_sample_has_the_objects_of_both_images(directory, monkeypatch):
    """Shares are Beta(32, 32): mean 1/2, variance 1 / (4 x 65)."""
    index = scan_split(load_dataset(directory / "dataset.yaml"), "train")
    alone, blended = (make_samples(index, mosaic=1, mixup=mixup, **STILL) for mixup in (0, 1))
    shares, real = [], augment.mix
    monkeypatch.setattr(augment, "mix", lambda *words: shares.append(words[2]) or real(*words))
    num_more = 0
    for epoch in range(300):
        first, both = alone.sample(epoch, 0)[1], blended.sample(epoch, 0)[1]
        assert (both[: len(first)] == first).all()
        num_more += len(both) - len(first)
    assert num_more > 300
    sigma = np.sqrt(1 / (4 * 65))
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * sigma / np.sqrt(300))
    assert np.std(shares) == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("field", ["hsv_h", "hsv_s", "hsv_v"])
def test_one_kind_of_colour_change_is_enough(directory, field):
    index = scan_split(load_dataset(directory / "dataset.yaml"), "train")
    plain, changed = (make_samples(index, **{**STILL, **more}) for more in ({}, {field: 0.5}))
    assert any((plain.sample(0, image)[0] != changed.sample(0, image)[0]).any() for image in range(4))


def test_a_whole_box_is_kept_however_small_the_image_becomes():
    """What is left is judged against the box as scaled: a fifth of each side is all of it, not a 25th."""
    matrix = augment.warp_matrix(augment.Warp(scale=0.2), (256, 256), (128, 128))
    rows = np.array([[0, 64, 64, 192, 192]], dtype=np.float32)
    assert len(augment.warp_boxes(rows, matrix, 0.2, (128, 128))) == 1
