"""Archives for tests: of a directory, and of members that no honest program writes."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.archives.archive import Archive
from hpc_yolo.data.contents import read_content


def tar_of(directory: Path, archive: Path, prefix: str = "") -> Path:
    """Write a tar of all files below `directory`, with `prefix` in front of their names."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(directory.rglob("*")):
            tar.add(path, prefix + str(path.relative_to(directory)), recursive=False)
    return archive


def zip_of(directory: Path, archive: Path, prefix: str = "", *, method: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip of all files below `directory`, with `prefix` in front of their names."""
    with zipfile.ZipFile(archive, "w", method) as written:
        for path in sorted(directory.rglob("*")):
            written.write(path, prefix + str(path.relative_to(directory)))
    return archive


def tar_with(archive: Path, *members: tuple[str, dict[str, Any]], content: bytes = b"x" * 600) -> Path:
    """Write a tar of members (name, fields of their header)."""
    with tarfile.open(archive, "w") as tar:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return archive


def zip_with(archive: Path, *names: str, mode: int = 0, content: bytes = b"x" * 600) -> Path:
    """Write a zip of members of these names, with a Unix `mode`."""
    with zipfile.ZipFile(archive, "w") as written:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.create_system = mode << 16, 3
            written.writestr(info, content)
    return archive


def raw_zip(archive: Path, entries: Iterable[dict[str, Any]], *, number: int | None = None, tail: bytes = b"") -> Path:
    """Write a zip whose directory has `entries` that may contradict the members in front of it.

    Args:
        entries: fields name, content, and size, method, flags, offset where they are wrong.
        number: of entries that is written, by default the right one.
    """
    entries = list(entries)
    body = directory = b""
    for entry in entries:
        name, content = entry["name"].encode(), entry.get("content", b"x")
        method, flags, size = entry.get("method", 0), entry.get("flags", 0), entry.get("size", len(content))
        offset, crc32 = entry.get("offset", len(body)), zlib.crc32(content)
        local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, crc32, len(content), size, len(name), 0)
        body += local + name + content
        fields = (20, 20, flags, method, 0, 0, crc32, len(content), size, len(name), 0, 0, 0, 0, 0, offset)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name
    number = len(entries) if number is None else number
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, len(directory), len(body), len(tail))
    archive.write_bytes(body + directory + end + tail)
    return archive


def assert_refused(path: Path, message: str) -> None:
    """Check that opening the archive says `message`, and that reading any of its members does too."""
    with pytest.raises(DataError) as raised:
        Archive(path)
    assert raised.value.message.startswith(f"{path}: ") and message in raised.value.message
    assert "\n" not in raised.value.message and raised.value.hint
    with pytest.raises(DataError):
        read_content(f"{path}/good.jpg")
