"""Tests of data/contents.py: the bytes of an image, or an error that names it."""

from pathlib import Path

import pytest

from hpc_yolo.data.contents import read_content
from hpc_yolo.data.copies import readable_files, reading_copies


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
