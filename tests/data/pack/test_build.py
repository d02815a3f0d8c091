"""Tests of data/pack/build.py: a packed set has what its dataset has, always in the same bytes, and is resumable."""

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_sets import one, write_coco
from image_sets import add, encoded
from packed_sets import SMALL_SHARDS, pack, write_source

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.contents import content_state, read_content
from hpc_yolo.data.dataset import dataset_content, load_dataset
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.images import read_image
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.pack.layout import Options, packed_files, read_manifest
from hpc_yolo.data.scan import scan_split
from hpc_yolo.spec.recipe import Hyperparameters

LIVELY = Hyperparameters(mixup=0.5, mosaic=0.7, copy_paste=0.5)
SPLITS = ("train", "val", "test")
GOOD = "background.jpg"


def index_of(data, split="train", **options):
    return scan_split(load_dataset(data, **options), split, needs_labels=False)


def digests(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


class Stopped(Exception):
    pass


def stop_after(number):
    def on_progress(done, _total):
        if done == number:
            raise Stopped

    return on_progress


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("single_cls", [False, True])
def test_packed_split_is_the_scanned_one(source, packed, split, single_cls):
    loose, found = (index_of(data, split, single_cls=single_cls) for data in (source, packed))
    np.testing.assert_array_equal(found.shapes_hw, loose.shapes_hw)
    np.testing.assert_array_equal(found.labels.rows, loose.labels.rows)
    np.testing.assert_array_equal(found.labels.bounds, loose.labels.bounds)
    np.testing.assert_array_equal(found.outlines.points, loose.outlines.points)
    np.testing.assert_array_equal(found.outlines.counts, loose.outlines.counts)
    assert (found.num_backgrounds, found.num_corrupt) == (loose.num_backgrounds, loose.num_corrupt)
    assert [read_content(path) for path in found.paths] == [Path(path).read_bytes() for path in loose.paths]
    root = f"{source.parent}/"
    assert [path.split(".tar/")[1] for path in found.paths] == [path.removeprefix(root) for path in loose.paths]


def test_findings_of_the_scan_are_reported_without_paths_of_the_source(packed):
    messages = "\n".join(index_of(packed).messages)
    assert "1 image left out" in messages and "images/train/damaged.jpg: cannot be decoded" in messages
    assert "1 of 10 images without objects" in messages and "images/train/background.jpg" in messages


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_source_bit_for_bit(source, packed, workers):
    options = {"imgsz": 64, "batch": 4, "rank": 0, "world_size": 1, "workers": workers}
    loose, found = (
        [
            *TrainingLoader(index_of(data), hyp=LIVELY, seed=0, **options).epoch(1),
            *ValidationLoader(index_of(data), stride=32, **options),
        ]
        for data in (source, packed)
    )
    assert len(found) == len(loose) == 6
    for batch, other in zip(loose, found, strict=True):
        assert batch.images.equal(other.images) and batch.targets.equal(other.targets)


def test_shards_are_plain_tar_files_without_times_and_owners(source, packed):
    members = []
    for path in sorted(packed.glob("train-*.tar")):
        with tarfile.open(path, "r:") as shard:
            members += [(info, shard.extractfile(info).read()) for info in shard]
    assert len(list(packed.glob("train-*.tar"))) > 2
    assert [(source.parent / info.name).read_bytes() for info, _ in members] == [content for _, content in members]
    assert {(info.mtime, info.uid, info.gid, info.uname, info.mode) for info, _ in members} == {(0, 0, 0, "", 0o644)}


def test_same_dataset_elsewhere_gives_the_same_bytes(packed, tmp_path, monkeypatch):
    other = write_source(tmp_path / "elsewhere" / "copy")
    for path in other.parent.rglob("*.txt"):
        os.utime(path, (1, 1))
    pack(other, tmp_path / "again")
    monkeypatch.chdir(other.parent)
    pack(Path("d.yaml"), tmp_path / "from here")
    assert digests(tmp_path / "again") == digests(tmp_path / "from here") == digests(packed)


@pytest.mark.parametrize("damage", ["", "flipped byte", "missing shard"])
def test_interrupted_packing_goes_on_and_ends_with_the_same_bytes(source, packed, tmp_path, damage):
    directory = tmp_path / "stopped"
    with pytest.raises(Stopped):
        pack(source, directory, on_progress=stop_after(8))
    with pytest.raises(DataError, match="packing was interrupted"):
        load_dataset(directory)
    finished = sorted(directory.glob("*.tar"))
    assert len(finished) > 1
    if damage == "flipped byte":
        flip(finished[1], 700)
    elif damage:
        finished[1].unlink()
    seen = []
    result = pack(source, directory, on_progress=lambda done, total: seen.append((done, total)))
    assert result.num_kept == (3 if damage else 6)
    assert seen[-1] == (12, 12)
    assert digests(directory) == digests(packed)


KILLED = """
import os, signal, sys
from pathlib import Path
from coco_sets import one, write_coco
from packed_sets import pack
def kill(done, _):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)
pack(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=kill)
"""


def test_killed_packing_goes_on_and_leaves_nothing_behind(source, packed, tmp_path):
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, source, tmp_path / "killed"], env=environ, check=False)
    assert killed.returncode == -9
    assert list((tmp_path / "killed").glob(".*.part"))
    assert pack(source, tmp_path / "killed").num_kept > 0
    assert digests(tmp_path / "killed") == digests(packed)


def test_packing_a_complete_set_again_changes_nothing(source, packed):
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}
    assert pack(source, packed).num_kept == 12
    assert {path: path.stat().st_mtime_ns for path in packed.iterdir()} == before


def test_packed_set_can_be_packed(packed, tmp_path):
    pack(packed, tmp_path / "second", Options())
    loose, found = index_of(packed), index_of(tmp_path / "second")
    assert list(map(read_content, found.paths)) == list(map(read_content, loose.paths))
    assert content_state(found.paths[0])[0] == len(read_content(found.paths[0]))


def test_splits_of_the_same_images_are_packed_once(directory, tmp_path):
    pack(directory / "d.yaml", tmp_path / "packed")
    assert sorted(packed_files(tmp_path / "packed")) == ["dataset.yaml", "train-00000.tar", "train.index"]
    assert index_of(tmp_path / "packed", "val").num_images == 1


def test_copied_dataset_yaml_has_absolute_paths(packed):
    content = dataset_content(packed)
    assert content["train"] == [str(packed / "train.index")]
    assert (content["path"], content["names"]) == (str(packed), ["cat", "dog"])


def test_keypoints_are_left_out_and_their_form_is_kept(directory, tmp_path):
    (directory / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [cat]\nkpt_shape: [1, 2]\n")
    (directory / "labels" / "train" / "good.txt").write_text("0 0.5 0.5 0.2 0.2 0.5 0.5\n")
    pack(directory / "d.yaml", tmp_path / "packed")
    assert load_dataset(tmp_path / "packed").kpt_shape == (1, 2)
    assert index_of(tmp_path / "packed").labels[0].shape == (1, 5)


def rotated(pixels):
    """Return a JPEG with an EXIF orientation of 6: to be turned clockwise by 90 degrees."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    content = encoded(".jpg", pixels)
    return content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:]


def test_scaled_images_are_upright_and_none_is_enlarged(directory, tmp_path):
    wide = cv2.resize(np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8), (160, 80))
    for name, content in {"wide.png": encoded(".png", wide), "exact.png": encoded(".png", wide[:32, :64])}.items():
        add(directory, name, content)
    add(directory, "turned.jpg", rotated(wide))
    pack(directory / "d.yaml", tmp_path / "packed", Options(size=64, quality=90))
    index = index_of(tmp_path / "packed")
    shapes = {path.rsplit("/", 1)[1]: tuple(shape) for path, shape in zip(index.paths, index.shapes_hw, strict=True)}
    assert shapes == {"good.jpg": (40, 60), "wide.jpg": (32, 64), "exact.png": (32, 64), "turned.jpg": (64, 32)}
    by_name = dict(zip(shapes, index.paths, strict=True))
    assert all(read_image(path).shape[:2] == shapes[name] for name, path in by_name.items())
    # JPEG alone makes a difference of 6, a wrong orientation one of 60.
    expected = cv2.resize(wide, (64, 32), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(read_image(by_name["wide.jpg"]) - expected).mean() < 12
    assert np.abs(read_image(by_name["turned.jpg"]) - np.rot90(expected, -1)).mean() < 12
    assert read_content(by_name["good.jpg"]) == (directory / "images" / "train" / "good.jpg").read_bytes()


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def paint(image):
    """Change the pixels of a JPEG, and not its length."""
    content = image.read_bytes()
    changed = encoded(".jpg", np.zeros_like(cv2.imread(str(image))))
    image.write_bytes(changed[:-2] + bytes(len(content) - len(changed)) + changed[-2:])


AFTER_PACKING = {
    "changed image": lambda image, _: flip(image, 500),
    "changed scaled image": lambda image, _: paint(image),
    "missing shard": lambda _, directory: (directory / "train-00001.tar").unlink(),
    "cut off index": lambda _, directory: os.truncate(directory / "train.index", 100),
    "damaged index": lambda _, directory: flip(directory / "train.index", 2000),
}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("file of that name", "cannot be written: Not a directory"),
        ("other files", "is not empty .mine. and no packed set"),
        ("other images", "is a packed set of other images, labels or options"),
        ("other options", "is a packed set of other images, labels or options"),
        ("changed image", r"other content: train: 1 image changed since: images/train/image 3.jpg"),
        ("changed scaled image", r"other content: train: 1 image changed since: images/train/image 3.jpg"),
        ("missing shard", r"train-00001.tar: is missing: the packed set is not complete"),
        ("cut off index", r"train.index: has 100 of \d+ bytes: the packed set is not complete"),
        ("damaged index", r"train.index: is damaged: its CRC is not that in packed.json"),
        ("unfinished", "has the unfinished packed set of other images"),
    ],
)
def test_directory_with_other_content_is_refused_and_kept(source, tmp_path, kind, message):
    directory = tmp_path / "new"
    options = Options(size=32) if kind == "changed scaled image" else SMALL_SHARDS
    if kind == "file of that name":
        directory.write_text("x")
    elif kind == "other files":
        directory.mkdir()
        (directory / "mine").write_text("x")
    elif kind == "unfinished":
        with pytest.raises(Stopped):
            pack(source, directory, on_progress=stop_after(8))
    else:
        pack(source, directory, options)
    if kind in ("other images", "unfinished"):
        add(source.parent, "new.jpg")
    if kind in AFTER_PACKING:
        AFTER_PACKING[kind](source.parent / "images" / "train" / "image 3.jpg", directory)
    before = {path: path.read_bytes() for path in tmp_path.rglob("new/**/*") if path.is_file()}
    with pytest.raises(DataError, match=message):
        pack(source, directory, Options(size=640) if kind == "other options" else options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("new/**/*") if path.is_file()} == before


HOLDER = """
import sys
from pathlib import Path
from hpc_yolo.core.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_packer_is_refused(source, tmp_path):
    with pytest.raises(Stopped):
        pack(source, tmp_path / "new", on_progress=stop_after(8))
    command = [sys.executable, "-c", HOLDER, tmp_path / "new" / ".packing" / "lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process packs into it"):
            pack(source, tmp_path / "new")
        holder.stdin.close()


@pytest.mark.parametrize("number", [1, 12])
def test_image_that_changes_meanwhile_is_refused(source, tmp_path, number):
    image = source.parent / "images" / "val" / "ä.png"

    def change(done, _total):
        if done == number == 1:
            image.write_bytes(encoded(".png"))
        elif done == number:
            flip(image, 100)
            os.utime(image, ns=(1, 1))

    with pytest.raises(DataError, match=r"ä.png: has changed while it was packed") as raised:
        pack(source, tmp_path / "new", on_progress=change)
    assert raised.value.hint.startswith("remove the unfinished set")
    assert not (tmp_path / "new" / "packed.json").exists()


def test_full_disk_is_reported_and_packing_goes_on_with_more_room(source, packed, tmp_path):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    directory = tmp_path / "full"
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard))  # a shard has up to 20,000 bytes
    try:
        with pytest.raises(DataError, match="does not take files of this size") as raised:
            pack(source, directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "the same command again goes on" in raised.value.hint
    assert not list(directory.glob(".*.part"))
    pack(source, directory)
    assert digests(directory) == digests(packed)


def test_missing_room_is_reported_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(DataError, match=r"KiB are needed, and 0 B are free"):
        pack(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    pack(source, tmp_path / "new", Options(size=32))  # as the hint says


def test_shards_that_are_there_need_no_more_room(source, packed, tmp_path, monkeypatch):
    directory, needed = tmp_path / "stopped", sum(path.stat().st_size for path in packed.glob("*.tar"))
    with pytest.raises(Stopped):
        pack(source, directory, on_progress=stop_after(8))
    kept = sum(path.stat().st_size for path in directory.glob("*.tar"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, needed - kept))
    pack(source, directory)
    assert digests(directory) == digests(packed)


def test_two_images_of_one_name_are_refused(source, tmp_path):
    add(source.parent, "image 1.jpg")  # scaled to JPEG, image 1.png has the same name
    with pytest.raises(DataError, match=r"would both be images/train/image 1.jpg in the packed set"):
        pack(source, tmp_path / "new", Options(size=32))


@pytest.mark.parametrize("train", ["{top}/data/images/train", "../data/images/train", "train.txt"])
def test_images_outside_of_the_root_give_the_same_bytes_wherever_they_are(tmp_path, monkeypatch, train):
    for top in (tmp_path / "first", tmp_path / "second" / "deep"):
        images = write_source(top / "data").parent / "images"
        (top / "data" / "labels" / "train" / "image 1.txt").write_text("9 0.5 0.5 0.1 0.1\n")
        (top / "cfg").mkdir()
        (top / "cfg" / "train.txt").write_text("".join(f"../data/images/train/{n}\n" for n in (GOOD, "image 1.png")))
        yaml = f"train: {train.format(top=top)}\nval: {images}/val\nnames: [cat, dog]\n"
        (top / "cfg" / "d.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path / "second" / "deep" / "cfg")
    for name, data in {"1": tmp_path / "first" / "cfg" / "d.yaml", "2": Path.cwd() / "d.yaml", "3": "d.yaml"}.items():
        pack(Path(data), tmp_path / name)
    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tmp_path / "3")
    index = index_of(tmp_path / "1")
    assert index.paths[0].endswith(f"/train-00000.tar/{GOOD}")
    assert "labels/train/image 1.txt:1: class 9" in str(index.findings.problems)
    assert str(tmp_path).encode() not in (tmp_path / "1" / "train.index").read_bytes()


def test_too_many_shards_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_yolo.data.pack.build.MAX_SHARDS", 2)
    with pytest.raises(DataError, match="train: more than 2 shards of 20 KiB"):
        pack(source, tmp_path / "new")


def test_manifest_lists_every_other_file(packed):
    names = {path.name: path.stat().st_size for path in packed.iterdir()}
    assert names.pop("packed.json")
    manifest = read_manifest(packed)
    assert {name: file.size for name, file in manifest.files.items()} == names
    assert manifest.images == {"train": 10, "val": 1, "test": 1}


@pytest.mark.parametrize("data", ["source", "packed"])
def test_reader_of_a_split_has_each_image_with_its_objects(source, packed, data):
    reader = open_split(load_dataset(source if data == "source" else packed), "train")
    images = {image.name: image for image in reader.images}
    first, second = reader.objects(images["image 1.png"])
    assert first.is_polygon and first.polygon[0] == pytest.approx([0.2, 0.2])
    assert not second.is_polygon and second.box == (0.5, 0.5, 0.5, 0.5)
    each = reader.read_each(images["image 1.png"]) or []
    assert [written.label[0] for written in each] == [1, 0]
    assert str(reader.label_file(images["image 1.png"])) in reader.where(images["image 1.png"], each[0].position)


def test_crowds_of_a_coco_set_are_kept(tmp_path):
    data = write_coco(tmp_path, [one(1), one(2, 7), one(2, iscrowd=1)])
    pack(data, tmp_path / "packed")
    loose, found = index_of(data), index_of(tmp_path / "packed")
    assert len(loose.crowds)
    np.testing.assert_array_equal(found.crowds, loose.crowds)
    np.testing.assert_array_equal(found.labels.rows, loose.labels.rows)
    assert load_dataset(tmp_path / "packed").names == load_dataset(data).names
