"""Reading members of archives by paths that go through them, such as coco.zip/images/train/1.jpg."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.archives.members import Member, MemberTable
from hpc_yolo.data.archives.squashfs import Squashfs, is_squashfs
from hpc_yolo.data.archives.table_file import kept_table
from hpc_yolo.data.archives.tar import BLOCK, is_tar, tar_members
from hpc_yolo.data.archives.zip import is_zip, zip_content, zip_members
from hpc_yolo.data.copies import readable_files

SUFFIXES = (".tar", ".zip", ".sqsh", ".sqfs", ".squashfs")
PARTS = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})(?=/|$)", re.IGNORECASE)
PLAIN = (
    "plain .tar and .zip files and squashfs images are read in place; unpack it, or pack the dataset with: "
    "hpc-yolo data pack"
)
ContentReader = Callable[[Member], bytes]
# First bytes of files that may be meant as an archive, and what they are.
OTHERS = (
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with XZ"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"sqsh", "a squashfs image of another byte order"),
)


class Archive:
    """An open archive. Its reads have no position that processes could share."""

    def __init__(self, path: Path) -> None:
        """Open the archive at `path` and read the table of its members.

        Raises:
            OSError: it cannot be read.
            DataError: it is no archive that is read in place, is damaged, or has a member that is refused.
        """
        self.path, self.version = path, _version(path)
        self._copies: dict[str, ContentReader | None] = {}
        file = FileIO(str(path))
        self._start = os.pread(file.fileno(), BLOCK, 0)
        try:
            self._content, members = self._reader(file)
            self.table = kept_table(path, lambda: MemberTable.of(members()))
        except ValueError as error:
            raise DataError(f"{path}: {error}", hint="such an archive is not read; make it again") from None

    def find(self, name: str) -> Member:
        """Return the member `name`.

        Raises:
            FileNotFoundError: there is none.
        """
        member = self.table.find(os.fsencode(name))
        if member is None:
            raise FileNotFoundError(errno.ENOENT, f"is not in {self.path}")
        return member

    def read(self, name: str, *, from_copy: bool = False) -> bytes:
        """Return the content of the member `name`.

        Args:
            from_copy: read the copy of the archive on this node where that is possible.

        Raises:
            OSError: there is none, or it cannot be read or is damaged.
        """
        member = self.find(name)
        *copies, _ = readable_files(str(self.path))
        for copy in copies if from_copy else ():
            if (content := self._copy(copy)) is not None:
                with contextlib.suppress(OSError, ValueError):
                    return content(member)
        try:
            return self._content(member)
        except ValueError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _reader(self, file: FileIO) -> tuple[ContentReader, Callable[[], Iterator[Member]]]:
        """Return (what reads the content of a member, what lists the members) of the open archive, or a copy of it.

        Raises:
            OSError, ValueError: it is damaged.
            DataError: the archive is none.
        """
        if is_squashfs(self._start):
            image = Squashfs(lambda size, offset: os.pread(file.fileno(), size, offset))
            return image.content, image.members
        if is_zip(self._start):
            return (lambda member: zip_content(member, _stored(file, member))), lambda: zip_members(file.fileno())
        if is_tar(self._start):
            return (lambda member: _stored(file, member)), lambda: tar_members(file.fileno())
        raise _not_an_archive(self.path, self._start)

    def _copy(self, path: str) -> ContentReader | None:
        """Return what reads members of the copy `path`; None where it cannot be opened, which is tried once."""
        if path not in self._copies:
            self._copies[path] = None
            with contextlib.suppress(OSError, ValueError):
                self._copies[path] = self._reader(FileIO(path))[0]
        return self._copies[path]


def _stored(file: FileIO, member: Member) -> bytes:
    """Return the bytes of a member as they are stored.

    Raises:
        OSError: `file` is cut off.
    """
    stored = os.pread(file.fileno(), member.stored, member.offset)
    if len(stored) != member.stored:
        raise OSError(errno.EIO, f"{file.name!s} is cut off")
    return stored


_opened: dict[str, Archive] = {}
_lock = threading.Lock()


def member_of(path: str) -> tuple[Archive, str] | None:
    """Return (the archive that `path` goes through, or is; the name of the member in it); None for other paths.

    Raises:
        OSError: the archive cannot be read.
        DataError: it is refused.
    """
    for part in PARTS.finditer(path):
        archive = path[: part.end()]
        if archive in _opened or Path(archive).is_file():
            return _open(archive), os.path.normpath(path[part.end() + 1 :]) if path[part.end() + 1 :] else ""
    return None


def archive_on(path: Path) -> Path | None:
    """Return the archive that `path` goes through, or is; None if there is none. Does not open it."""
    ends = (part.end() for part in PARTS.finditer(str(path)))
    return next((archive for end in ends if (archive := Path(str(path)[:end])).is_file()), None)


def open_archive(path: Path) -> Archive | None:
    """Return the archive at `path` as it is now; None for a file that is none.

    Raises:
        OSError: it cannot be read.
        DataError: it is refused, or of a kind that is not read in place.
    """
    with path.open("rb") as file:
        start = file.read(BLOCK)
    if path.suffix.lower() not in SUFFIXES and not any(start.startswith(magic) for magic, _ in OTHERS):
        if not (is_zip(start) or is_tar(start) or is_squashfs(start)):
            return None
        raise DataError(f"{path}: is an archive whose name ends in none of {', '.join(SUFFIXES)}", hint="rename it")
    found = _opened.get(str(path))
    if found is not None and found.version != _version(path):
        del _opened[str(path)]
    return _open(str(path))


def _open(path: str) -> Archive:
    if path not in _opened:
        with _lock:
            if path not in _opened:
                _opened[path] = Archive(Path(path))
    return _opened[path]


def _not_an_archive(path: Path, start: bytes) -> DataError:
    seen = next((what for magic, what in OTHERS if start.startswith(magic)), None)
    what = seen or "neither a tar, a zip nor a squashfs image, or its start is damaged"
    return DataError(f"{path}: is {what}", hint=PLAIN)


def _version(path: Path) -> tuple[int, int, int]:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return (0, 0, 0)
