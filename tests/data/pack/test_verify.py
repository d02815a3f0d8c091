"""Tests of data/pack/verify.py, and of what a training says of the same damage."""

import errno
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from hpc_yolo.core.errors import DataError, HpcYoloError
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.copies import reading_copies
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.images import read_image
from hpc_yolo.data.pack.arrays import arrays_content, map_arrays
from hpc_yolo.data.pack.index import SplitIndex
from hpc_yolo.data.pack.layout import packed_files, read_manifest
from hpc_yolo.data.pack.verify import verify_files, verify_set
from hpc_yolo.data.scan import scan_split


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1500])


def train_index(directory):
    return scan_split(load_dataset(directory), "train")


def test_intact_set_and_its_copy_have_no_damage(packed, tmp_path):
    seen = []
    assert verify_set(packed, lambda done, total: seen.append((done, total))) == []
    total = sum(file.size for file in read_manifest(packed).files.values())
    assert max(seen) == (total, total)
    shutil.copytree(packed, tmp_path / "copy")
    assert verify_files(tmp_path / "copy", packed_files(packed)) == {}


@pytest.mark.parametrize(
    ("name", "damage", "verified", "training"),
    [
        ("train-00000.tar", lambda path: flip(path, 600), "is damaged: 1 image: images/train/background.jpg", None),
        ("train-00000.tar", lambda path: flip(path, 110), "is damaged, outside of its images: every", None),
        ("train-00001.tar", cut, r"has \d+ of \d+ bytes: 1 image: images/train/image 4.png", r"has \d+ of \d+ bytes"),
        ("train-00001.tar", Path.unlink, "cannot be read: No such file", "cannot be read: No such file"),
        ("train.index", lambda path: flip(path, 2000), "is damaged", "is damaged: its CRC is not that in packed.json"),
        ("train.index", cut, r"has \d+ of \d+ bytes", r"has \d+ of \d+ bytes"),
        ("train.index", Path.unlink, "cannot be read: No such file", "train.index does not exist"),
        ("dataset.yaml", lambda path: flip(path, -3), "is damaged", None),
        ("packed.json", cut, None, "packed.json: is damaged"),
        ("packed.json", Path.unlink, None, "is not a packed set: it has no packed.json"),
    ],
)
def test_damage_is_named(packed, name, damage, verified, training):
    damage(packed / name)
    if verified is None:
        with pytest.raises(DataError, match=training):
            verify_set(packed)
    else:
        (problem,) = verify_set(packed)
        assert problem.startswith(f"{packed / name}: ")
        assert re.search(verified, problem)
    if training is not None:
        with pytest.raises(DataError, match=training):
            train_index(packed)


def test_flipped_byte_of_an_image_is_an_unreadable_image(packed):
    index = train_index(packed)
    flip(packed / "train-00000.tar", 600)
    with pytest.raises(DataError, match=r"background.jpg: cannot be read: is damaged: not the CRC .* data verify"):
        read_image(index.paths[0])
    assert read_image(index.paths[1]).shape == (40, 60, 3)


def test_shard_that_is_cut_off_while_it_is_read_gives_an_unreadable_image(packed):
    index = train_index(packed)
    cut(packed / "train-00000.tar")
    last = [path for path in index.paths if "train-00000" in path][-1]
    with pytest.raises(OSError, match="its shard is cut off"):
        read_content(last)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.EMFILE])
def test_shard_that_cannot_be_opened_gives_unreadable_images(packed, monkeypatch, code):
    index = train_index(packed)
    flip(packed / "train-00000.tar", 600)

    def fail(_path):
        raise OSError(code, "reason of the system")

    monkeypatch.setattr("hpc_yolo.data.pack.index.open_file", fail)
    with pytest.raises(HpcYoloError, match=r"background.jpg: cannot be read: reason of the system"):
        read_image(index.paths[0])
    (problem,) = verify_set(packed)
    assert "train-00000.tar: is damaged: 3 images: images/train/background.jpg" in problem


def test_read_that_fails_after_another_thread_has_left_the_copy_is_repeated(packed, tmp_path, monkeypatch):
    expected = SplitIndex(packed / "train.index").read(0)
    copy = Path(f"{tmp_path}/copies{packed}/train-00000.tar")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(bytes(5000))
    index, inner = SplitIndex(packed / "train.index"), []
    content = index._content

    def content_after_another_read(image, file):
        try:
            return content(image, file)
        except OSError:
            if not inner:
                inner.append(None)
                inner.append(index.read(image))
            raise

    monkeypatch.setattr(index, "_content", content_after_another_read)
    with reading_copies(f"{tmp_path}/copies"):
        assert index.read(0) == expected
    assert inner[1] == expected


@pytest.mark.parametrize("name", ["absent.jpg", "images/train/image 8.JPEG", ""])
def test_name_that_a_shard_lacks_is_not_found(packed, name):
    with pytest.raises(FileNotFoundError, match=r"is not in .*train.index"):
        read_content(f"{packed}/train-00000.tar/{name}")


def test_set_that_is_packed_again_in_its_place_is_read_anew(packed, source):
    from packed_sets import pack

    assert train_index(packed).num_images == 10
    shutil.rmtree(packed)
    (source.parent / "images" / "train" / "background.jpg").unlink()
    pack(source, packed)
    index = train_index(packed)
    assert index.num_images == 9
    assert read_content(index.paths[0]) == (source.parent / "images" / "train" / "image 0.jpg").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\xff" * 20, "it is cut off, or no index"),
        ((2).to_bytes(8, "little") + b"{}", "its header is invalid"),
        ((4).to_bytes(8, "little") + b"[[[[", "its header is invalid"),
    ],
)
def test_file_that_is_no_index_is_refused(tmp_path, content, message):
    (tmp_path / "train.index").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SplitIndex(tmp_path / "train.index")


def with_array(name, change):
    return lambda arrays, _values: arrays.update({name: change(arrays[name])})


def with_value(name, value):
    return lambda _arrays, values: values.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, values: values.update(sharts=values.pop("shards")), "missing required field `shards`"),
        (lambda _, values: values.pop("num_backgrounds"), "missing required field `num_backgrounds`"),
        (with_value("shards", [["train-00000.tar", "many"]]), "Expected `int`, got `str`"),
        (with_value("shards", [["../train-00000.tar", 1]]), "lists a shard in another directory"),
        (with_value("shards", []), "an image in a shard that it does not list"),
        (with_value("num_corrupt", None), "Expected `int`, got `null`"),
        (with_value("findings", {"problems": "none"}), "Expected `array`, got `str`"),
        (lambda arrays, _: arrays.pop("names"), "has no array 'names'"),
        (lambda arrays, _: arrays.pop("shapes_hw"), "has no array 'shapes_hw'"),
        (
            with_array("shard", lambda found: found.astype(np.float32)),
            r"array shard is float32 \(10,\), not int32 \(N\)",
        ),
        (with_array("labels", lambda found: found[:, :4]), r"array labels is float32 \(13, 4\), not float32 \(N, 5\)"),
        (with_array("crowds", lambda found: found.ravel()), "array crowds is float32"),
        (with_array("by_name", lambda found: found + 1), "array by_name does not fit"),
        (with_array("offset", lambda found: found[1:]), "array offset does not fit"),
    ],
)
def test_index_with_an_invalid_entry_is_refused_and_its_shard_is_still_verified(packed, change, message):
    arrays, values = map_arrays(packed / "train.index")
    change(arrays, values)
    (packed / "train.index").write_bytes(arrays_content(arrays, values))
    flip(packed / "train-00000.tar", 600)
    with pytest.raises(ValueError, match=message):
        SplitIndex(packed / "train.index")
    assert {problem.split(": ")[0] for problem in verify_set(packed)} == {
        str(packed / name) for name in ("train-00000.tar", "train.index")
    }


def test_labels_of_more_classes_than_names_are_refused(packed):
    (packed / "dataset.yaml").write_text("train: train.index\nval: val.index\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"train.index: has labels of 2 classes, and .*dataset.yaml has 1 names"):
        train_index(packed)


def test_index_beside_other_sources_is_refused(packed, source):
    images = source.parent / "images" / "val"
    (packed / "dataset.yaml").write_text(f"train: [train.index, {images}]\nval: val.index\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match="the index of a packed set must be alone"):
        train_index(packed)
