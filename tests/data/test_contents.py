"""Tests of data/contents.py: the bytes of an image, or an error that names it."""

from pathlib import Path

import pytest

from hpc_yolo.data.contents import read_content


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
