"""The image files of a split: below directories, in lists, and those that are skipped."""

import os
import zipfile
from pathlib import Path

import pytest
from image_sets import add, scan

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.image_suffixes import DATASET_SUFFIXES

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("root", [".", "a/..", "{here}"])
def test_directories_and_lists_may_be_mixed_and_an_image_counts_once(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    for name in ("a/images/1.jpg", "a/images/deep/2.JPEG", "b/images/3.Png", "b/images/notes.txt", "b/images/4.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = tmp_path / "list.txt"
    listed.write_text(f"./a/images/1.jpg\r\n{tmp_path}/b/images/3.Png\r\n  \r\n")
    here = Path(root.format(here=tmp_path))
    found = find_images((here / "a", listed, here / "b")).paths
    assert sorted(path.name for path in found) == ["1.jpg", "2.JPEG", "3.Png"]


@pytest.mark.parametrize("source", [".set", "set.zip/.set", "set.zip/.set/deep/..", "set.zip"])
def test_hidden_files_and_directories_are_left_out(tmp_path, monkeypatch, source):
    """Such as copies that Jupyter keeps, which have no labels; one that is named itself is not meant to be hidden."""
    monkeypatch.chdir(tmp_path)
    shown = "" if source == "set.zip" else ".set/"
    for name in ("1.jpg", ".ipynb_checkpoints/1-checkpoint.jpg", "._1.jpg", "deep/.hidden/a/2.jpg", "deep/3.jpg"):
        Path(".set", name).parent.mkdir(parents=True, exist_ok=True)
        Path(".set", name).touch()
        with zipfile.ZipFile("set.zip", "a") as archive:
            archive.writestr(f"{shown}{name}", b"")
    assert [path.name for path in find_images((tmp_path / source,)).paths] == ["1.jpg", "3.jpg"]


@pytest.mark.parametrize("source", ["set", "set.zip"])
def test_split_of_hidden_images_alone_is_an_error_that_names_one(tmp_path, source):
    (tmp_path / "set" / ".train").mkdir(parents=True)
    (tmp_path / "set" / ".train" / "1.jpg").touch()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(".train/1.jpg", b"")
    with pytest.raises(DataError) as caught:
        find_images((tmp_path / source,))
    assert f"hidden: {tmp_path / source}/.train/1.jpg; rename" in caught.value.hint


@pytest.mark.parametrize("suffix", sorted(DATASET_SUFFIXES))
def test_suffixes_are_found_in_either_case(tmp_path, suffix):
    for name in (f"small{suffix}", f"LARGE{suffix.upper()}"):
        (tmp_path / name).touch()
    assert len(find_images((tmp_path,)).paths) == 2


def test_order_does_not_depend_on_the_file_system(tmp_path):
    """Epoch orders are permutations of this order, and nodes may list a directory differently."""
    for name in ("10.jpg", "9.jpg", "a.jpg", "B.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images((tmp_path,)).paths] == ["10.jpg", "9.jpg", "B.jpg", "a.jpg"]


def test_order_is_that_of_the_parts_of_paths(tmp_path, monkeypatch):
    """A directory comes before one whose name begins with its own, absolute paths before most relative ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("d/a/2.jpg", "d/a-b/1.jpg", "d/a.b/1.jpg", "d/a/1.b.jpg", "d/a/-.jpg.jpg", "e/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images((Path("d"), tmp_path / "e")).paths
    assert found == tuple(sorted(found)) and len(found) == 6


def test_images_behind_links_are_found_once(directory):
    """Large sets are often directories of links to another disk; a link back up must not be followed for ever."""
    add(directory, "two.jpg")
    far = directory.parent / "far"
    (directory / "images" / "train").rename(far)
    (directory / "images" / "train").mkdir()
    (directory / "images" / "train" / "part").symlink_to(far)
    (far / "round").symlink_to(directory / "images" / "train")
    (far / "directory.jpg").mkdir()
    found = find_images(load_dataset(directory / "d.yaml").train).paths
    assert [path.name for path in found] == ["good.jpg", "two.jpg"]


def test_list_names_images_relative_to_its_own_directory(directory):
    add(directory, "two.jpg")
    listed = directory / "list.txt"
    listed.write_text("./images/train/two.jpg\n\n")
    assert [path.name for path in find_images((listed,)).paths] == ["two.jpg"]


def test_directory_without_images_is_an_error(directory):
    with pytest.raises(DataError, match="no images in"):
        find_images((directory / "labels",))


def test_list_with_a_byte_order_mark_keeps_its_first_image(shapes_directory):
    listed = shapes_directory / "list.txt"
    listed.write_bytes(BYTE_ORDER_MARK + b"./images/train/00000.jpg\r\n./images/train/00001.jpg\r\n")
    assert all(path.is_file() for path in find_images((listed,)).paths)


def test_directory_that_cannot_be_listed_is_an_error(shapes_directory, monkeypatch):
    """os.walk skips it silently. Root may list any directory, so the refusal is made here."""
    (shapes_directory / "images" / "train" / "private").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="private: cannot be listed: Permission denied"):
        find_images(load_dataset(shapes_directory / "dataset.yaml").train)


def test_images_that_opencv_does_not_decode_are_counted_by_suffix(directory):
    for name in ("c.heic", "d.HEIC", "e.jxl"):
        add(directory, name, b"x", label=None)
    note = "3 files skipped, OpenCV does not decode them: .heic (2), .jxl (1); convert them to JPEG or PNG"
    assert find_images((directory / "images" / "train",)).notes == (note,)
    assert scan(directory).messages[-1] == f"train: {note}"


def test_split_of_images_that_opencv_does_not_decode_is_an_error(tmp_path):
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic" / "a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images in .*heic\n.*1 file skipped, .*\.heic \(1\); convert"):
        find_images((tmp_path / "heic",))
