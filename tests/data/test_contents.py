"""Tests of data/contents.py: the bytes of an image, or an error that names it."""

import contextlib
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from archives import tar_of, zip_of
from image_sets import JPEG, different

from hpc_yolo.core.errors import DataError, HpcYoloError
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.copies import readable_files, reading_copies
from hpc_yolo.data.image_size import size_of_image
from hpc_yolo.data.images import read_image

HALF = len(JPEG) // 2


@pytest.mark.parametrize("content", [b"", b"\x00", bytes(range(256)) * 1000])
def test_whole_content_is_returned(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert read_content(str(tmp_path / "a.jpg")) == content


@pytest.mark.parametrize(
    ("name", "cause"), [("absent.jpg", "No such"), (".", "Is a dir"), ("file/in.jpg", "Not a dir")]
)
def test_unreadable_content_raises_error_that_names_it(tmp_path: Path, name: str, cause: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=cause) as raised:
        read_content(f"{tmp_path}/{name}")
    assert raised.value.filename == f"{tmp_path}/{name}"


def test_error_while_reading_names_the_file() -> None:
    with pytest.raises(OSError, match="Input/output error") as raised:
        read_content("/proc/self/mem")  # opens, but its first page cannot be read
    assert raised.value.filename == "/proc/self/mem"


@pytest.mark.parametrize(
    ("copy", "content"), [(b"copied", b"copied"), (None, b"source")], ids=["with a copy", "without one"]
)
def test_copy_is_read_where_there_is_one(tmp_path: Path, copy: bytes | None, content: bytes) -> None:
    source = tmp_path / "set" / "a.jpg"
    source.parent.mkdir()
    source.write_bytes(b"source")
    if copy is not None:
        target = Path(f"{tmp_path}/copies{source}")
        target.parent.mkdir(parents=True)
        target.write_bytes(copy)
    with reading_copies(f"{tmp_path}/copies"):
        assert read_content(str(source)) == content
        assert read_content(f"{source.parent}/../set/./a.jpg") == content
    assert read_content(str(source)) == b"source"
    assert readable_files(str(source)) == [str(source)]


def test_missing_image_has_its_own_name_in_the_error(tmp_path: Path) -> None:
    with reading_copies(str(tmp_path)), pytest.raises(FileNotFoundError) as raised:
        read_content("/no/such.jpg")
    assert raised.value.filename == "/no/such.jpg"


def copied(path: Path, copies: Path, content: bytes) -> None:
    """Write `content` as the copy of the file `path`."""
    copy = Path(f"{copies}{path}")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", bytes(len(JPEG)), JPEG[:HALF], JPEG[:HALF] + bytes(HALF), JPEG[:-2], JPEG[:30]],
    ids=["empty", "zeros", "half", "half and zeros", "no end mark", "start"],
)
@pytest.mark.parametrize("kind", ["file", "tar", "zip"])
def test_image_whose_copy_is_damaged_is_read_from_the_dataset(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / "set").mkdir()
    image = tmp_path / "set" / "a.jpg"
    image.write_bytes(JPEG)
    address, staged = image, image
    if kind != "file":
        staged = (tar_of if kind == "tar" else zip_of)(tmp_path / "set", tmp_path / f"x.{kind}")
        address = staged / "a.jpg"
    expected = read_image(str(address))
    copied(
        staged,
        tmp_path / "copies",
        staged.read_bytes().replace(JPEG, content.ljust(len(JPEG) * (kind != "file"), b"\0")),
    )
    with reading_copies(f"{tmp_path}/copies"):
        assert np.array_equal(read_image(str(address)), expected)
        assert size_of_image(str(address)) == expected.shape[1::-1]


def test_whole_copy_of_an_image_is_decoded(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(different(1))
    copied(image, tmp_path / "copies", different(2))
    before = read_image(str(image))
    with reading_copies(f"{tmp_path}/copies"):
        assert not np.array_equal(read_image(str(image)), before)


def test_damaged_image_of_the_dataset_is_an_error_with_a_copy_too(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(b"")
    copied(image, tmp_path / "copies", bytes(9))
    with (
        reading_copies(f"{tmp_path}/copies"),
        pytest.raises(DataError, match=r"a\.jpg: cannot be decoded: an empty file"),
    ):
        read_image(str(image))


def test_limit_of_open_files_is_no_damage_of_the_image(tmp_path: Path) -> None:
    """Else the image would be replaced, and left out of the cache of a scan."""
    (tmp_path / "a.jpg").write_bytes(b"content")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(HpcYoloError, match=r"a\.jpg: cannot be read: Too many open files") as raised:
            read_content(str(tmp_path / "a.jpg"))
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert type(raised.value) is HpcYoloError
    assert "ulimit -n" in str(raised.value.hint)
