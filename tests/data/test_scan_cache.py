"""The cache of scans: it saves time and never changes what is read."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from image_sets import GOOD, NOISE, TRIANGLE, add, cache_of, encoded, no_scan, plain, scan
from waiting import PATIENCE_S

from hpc_yolo.core import files
from hpc_yolo.data import scan as scan_module
from hpc_yolo.data import scan_cache
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.data.scan import scan_split
from hpc_yolo.spec.recipe import Hyperparameters


@pytest.fixture
def scans(monkeypatch):
    """The number of scans so far, as the length of a list."""
    calls, real = [], scan_module._scan
    monkeypatch.setattr(scan_module, "_scan", lambda *arguments: calls.append(1) or real(*arguments))
    return calls


def npz(**arrays) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def npy() -> bytes:
    packed = io.BytesIO()
    np.save(packed, np.zeros(3))
    return packed.getvalue()


def test_second_scan_returns_the_cached_index(directory, scans):
    add(directory, "two.jpg", label="1 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.1 0.1\n")
    first = scan(directory)
    assert plain(scan(directory)) == plain(first)
    assert len(scans) == 1
    add(directory, "good.jpg", label="1 0.25 0.5 0.5 0.5\n")
    assert scan(directory).labels[0][0, 1] == 0.25
    assert len(scans) == 2


@pytest.mark.parametrize("change", ["image", "label", "new label", "new image", "class", "lost label"])
def test_any_change_of_files_or_names_causes_a_new_scan(directory, change, scans):
    images, labels = directory / "images" / "train", directory / "labels" / "train"
    add(directory, "plain.png", label=None)
    add(directory, "labelled.png")
    for _ in range(2):
        scan(directory)
    assert len(scans) == 1
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
    scan(directory)
    assert len(scans) == 2


def test_label_file_of_the_same_size_is_noticed(directory):
    """Only its time differs. It is set here, because clocks of file systems are coarse."""
    label = directory / "labels" / "train" / "good.txt"
    scan(directory)
    label.write_text(GOOD.replace("0 ", "1 ", 1))
    os.utime(label, ns=(label.stat().st_atime_ns, label.stat().st_mtime_ns + 1))
    assert scan(directory).labels[0][0, 0] == 1


def test_cache_of_an_older_version_is_not_used(directory, monkeypatch):
    """It left out PNG files named .jpg."""
    add(directory, "x.jpg", encoded(".png"))
    monkeypatch.setattr("hpc_yolo.data.scan.CACHE_VERSION", 3)
    monkeypatch.setattr(
        "hpc_yolo.data.image_checks.decode_image",
        lambda content, _=1: None if content[:1] == b"\x89" else NOISE,
    )
    assert scan(directory).num_images == 1
    monkeypatch.undo()
    assert scan(directory).num_images == 2


def test_another_version_of_the_decoder_scans_again(directory, monkeypatch):
    """Each reads other formats; what one could not decode, the next may."""
    scan(directory)
    kept = scan_cache._read_cache
    monkeypatch.setattr("cv2.__version__", "99.0")
    read = []
    monkeypatch.setattr(scan_cache, "_read_cache", lambda path, key: read.append(kept(path, key)) or read[-1])
    scan(directory)
    assert read == [None]


def test_backgrounds_and_messages_are_cached(directory, monkeypatch):
    """Labels are cut at counts, of which many may be zero."""
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


def test_outlines_are_cached_with_their_objects(directory, monkeypatch):
    triangle = "0 0.2 0.2 0.8 0.3 0.4 0.9\n"
    add(directory, "a.jpg", label=GOOD)
    add(directory, "b.jpg", label=f"{GOOD}{triangle}{GOOD}")
    add(directory, "c.jpg", label=triangle)
    first = scan(directory)
    monkeypatch.setattr(scan_module, "_scan", no_scan)
    for index in (first, scan(directory)):
        assert [index.outlines_of(image).counts.tolist() for image in range(4)] == [[0], [0, 3], [3], [0]]
        assert (index.outlines_of(1).polygon(1) == TRIANGLE).all()
        assert (index.outlines_of(2).points == TRIANGLE).all()
        assert (index.outlines.points.dtype, index.outlines.counts.dtype) == (np.float32, np.int64)


def test_set_of_boxes_has_no_outlines(directory):
    add(directory, "b.jpg", label=f"{GOOD}0 0.1 0.1 0.1 0.1\n")
    index = scan(directory)
    assert index.outlines.is_empty
    assert [index.outlines_of(image).counts.tolist() for image in range(2)] == [[0, 0], [0]]


def test_one_cache_serves_all_classes_and_single_cls(directory, scans):
    add(directory, "good.jpg", label="1 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.2 0.2\n")
    for single_cls, classes in ((True, [0, 0]), (False, [1, 0]), (True, [0, 0])):
        index = scan_split(load_dataset(directory / "d.yaml", single_cls=single_cls), "train")
        assert index.labels[0][:, 0].tolist() == classes
    assert len(scans) == 1


def test_splits_that_begin_alike_have_caches_of_their_own(directory, scans):
    """Rank 0 reads train, then val; the other ranks must still find train."""
    for kind in ("images", "labels"):
        shutil.copytree(directory / kind / "train", directory / kind / "more")
    (directory / "d.yaml").write_text("train: [images/train, images/more]\nval: images/train\nnames: [cat, dog]\n")
    for split in ("train", "val") * 2:
        scan(directory, split)
    assert len(scans) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 torn", b"\x80\x04no pickle.", npy(), npz(header=np.frombuffer(b"[1]", dtype=np.uint8))],
    ids=["empty", "torn", "pickle", "one array", "another header"],
)
def test_damaged_cache_is_replaced(directory, content):
    expected = plain(scan(directory))
    cache_of(directory).write_bytes(content)
    assert plain(scan(directory)) == expected


def test_no_flipped_byte_of_a_cache_raises_or_changes_a_label(directory):
    """Damage shows as errors of zip, zlib, numpy and json, of a dozen kinds."""
    expected = plain(scan(directory))
    cache = cache_of(directory)
    whole = cache.read_bytes()
    with np.load(cache) as arrays:
        key = json.loads(arrays["header"].tobytes())["key"]
    for position in range(len(whole)):
        cache.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        found = scan_cache._read_cache(cache, key)
        assert found is None or plain(found) == expected


def test_no_cache_is_written_without_a_lock(directory):
    (directory / "labels" / ".train.hpc-yolo.lock").mkdir()  # root may write anywhere, but not here
    assert scan(directory).num_images == 1
    assert not list((directory / "labels").glob(".*.npz"))


def test_cache_is_read_where_no_lock_can_be_made(directory, scans):
    """A dataset of another person, read-only: otherwise every rank of every attempt reads all of it again."""
    scan(directory)
    lock = directory / "labels" / ".train.hpc-yolo.lock"
    lock.unlink()
    lock.mkdir()  # root may write anywhere, but not here
    scan(directory)
    assert len(scans) == 1


def test_spare_cache_is_used_where_the_labels_cannot_be_written(directory, tmp_path, scans):
    """A dataset of the whole group, read-only: rank 0 scans, and the others use its cache."""
    (directory / "labels" / ".train.hpc-yolo.lock").mkdir()  # root may write anywhere, but not here
    spare = tmp_path / "run" / "labels-train.npz"
    spare.parent.mkdir()
    first = scan(directory, spare_cache=spare)
    assert spare.is_file()
    assert plain(scan(directory, spare_cache=spare)) == plain(first)
    assert len(scans) == 1


def test_spare_cache_is_used_where_the_disk_is_full(directory, tmp_path, monkeypatch, scans):
    """The lock can be had and the cache not be written."""

    def write_atomic(path, *arguments, **options):
        if path.is_relative_to(directory):
            raise OSError(28, "No space left on device")
        files.write_atomic(path, *arguments, **options)

    monkeypatch.setattr(scan_cache, "write_atomic", write_atomic)
    for _ in range(2):
        scan(directory, spare_cache=tmp_path / "labels.npz")
    assert len(scans) == 1


def test_cache_beside_the_labels_is_preferred(directory, tmp_path):
    scan(directory, spare_cache=tmp_path / "labels.npz")
    assert cache_of(directory).name == ".train.hpc-yolo.npz"
    assert not (tmp_path / "labels.npz").exists()


def test_names_of_an_old_code_page_are_cached_and_loaded(shapes_directory, scans):
    """An archive packed on Windows has names that are no UTF-8; Python holds them as lone surrogates."""
    for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
        old = shapes_directory / kind / "train" / f"00000{suffix}"
        old.rename(old.with_name(os.fsdecode(b"gr\xfcn" + suffix.encode())))
    dataset = load_dataset(shapes_directory / "dataset.yaml")
    first = scan_split(dataset, "train")
    assert (first.num_images, first.num_corrupt, first.num_backgrounds) == (4, 0, 0)
    assert scan_split(dataset, "train").paths == first.paths
    assert len(scans) == 1
    options = {"imgsz": 64, "batch": 4, "rank": 0, "world_size": 1, "workers": 0}
    assert len(list(TrainingLoader(first, hyp=Hyperparameters(), seed=0, **options).epoch(0))) == 1


def test_two_processes_that_scan_at_once_return_the_same(directory):
    for number in range(8):
        add(directory, f"n{number}.jpg", label=f"{number % 2} 0.5 0.5 0.{number + 1} 0.5\n")
    program = (
        "import json, sys; from pathlib import Path\n"
        "from hpc_yolo.data.dataset import load_dataset; from hpc_yolo.data.scan import scan_split\n"
        "index = scan_split(load_dataset(Path(sys.argv[1])), 'train')\n"
        "print(json.dumps([list(index.paths), [labels.tolist() for labels in index.labels]]))\n"
    )
    command = [sys.executable, "-c", program, str(directory / "d.yaml")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (json.loads(process.communicate(timeout=PATIENCE_S)[0]) for process in both)
    assert first == second
    assert len(first[0]) == 9


def test_cache_has_no_pickle(directory):
    """Reading a pickle runs what is in it, and dataset directories are shared."""
    scan(directory)
    with np.load(cache_of(directory), allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_cache_is_readable_by_the_group(directory):
    scan(directory)
    assert cache_of(directory).stat().st_mode & 0o044 == 0o044
