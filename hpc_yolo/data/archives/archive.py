"""Reading members of archives by paths that go through them, such as coco.zip/images/train/1.jpg."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from io import FileIO
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.archives.members import Member, MemberTable
from hpc_yolo.data.archives.table_file import kept_table
from hpc_yolo.data.archives.tar import BLOCK, is_tar, tar_members
from hpc_yolo.data.archives.zip import is_zip, zip_content, zip_members
from hpc_yolo.data.copies import readable_files

SUFFIXES = (".tar", ".zip")
PARTS = re.compile(r"\.(?:tar|zip)(?=/|$)", re.IGNORECASE)
PLAIN = "only plain .tar and .zip files are read in place; unpack it, or pack the dataset with: hpc-yolo data pack"
MOUNT = "mount it, and name a dataset YAML below the mount: mkdir $TMPDIR/data && squashfuse {} $TMPDIR/data"
# First bytes of files that may be meant as an archive, what they are, and what to do.
OTHERS = (
    (b"\x1f\x8b", "compressed with gzip", PLAIN),
    (b"BZh", "compressed with bzip2", PLAIN),
    (b"\xfd7zXZ", "compressed with XZ", PLAIN),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", PLAIN),
    (b"7z\xbc\xaf", "a 7-Zip archive", PLAIN),
    (b"Rar!", "a RAR archive", PLAIN),
    (b"hsqs", "a squashfs image", MOUNT),
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
        self._file, self._copies = FileIO(str(path)), dict[str, FileIO | None]()
        start = os.pread(self._file.fileno(), BLOCK, 0)
        self._is_zip = is_zip(start)
        if not self._is_zip and not is_tar(start):
            raise _not_an_archive(path, start)
        read_members = zip_members if self._is_zip else tar_members
        try:
            self.table = kept_table(path, lambda: MemberTable.of(read_members(self._file.fileno())))
        except ValueError as error:
            raise DataError(f"{path}: {error}", hint="archives with such members are not read; make it again") from None

    def find(self, name: str) -> Member:
        """Return the member `name`.

        Raises:
            FileNotFoundError: there is none.
        """
        member = self.table.find(os.fsencode(name))
        if member is None:
            raise FileNotFoundError(errno.ENOENT, f"is not in {self.path}")
        return member

    def read(self, name: str) -> bytes:
        """Return the content of the member `name`.

        Raises:
            OSError: there is none, or it cannot be read or is damaged.
        """
        member = self.find(name)
        stored = self._read(member)
        if not self._is_zip:
            return stored
        try:
            return zip_content(member, stored)
        except ValueError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _read(self, member: Member) -> bytes:
        """Return the stored bytes of a member, from the copy of the archive on this node if that can be read."""
        for path in readable_files(str(self.path)):
            file = self._file if path == str(self.path) else self._copy(path)
            stored = b"" if file is None else os.pread(file.fileno(), member.stored, member.offset)
            if file is not None and len(stored) == member.stored:
                return stored
        raise OSError(errno.EIO, f"{self.path} is cut off")

    def _copy(self, path: str) -> FileIO | None:
        """Return the open copy `path`; None where there is none, which is tried once."""
        if path not in self._copies:
            self._copies[path] = None
            with contextlib.suppress(OSError):
                self._copies[path] = FileIO(path)
        return self._copies[path]


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
    if path.suffix.lower() not in SUFFIXES and not any(start.startswith(magic) for magic, _, _ in OTHERS):
        if not is_zip(start) and not is_tar(start):
            return None
        raise DataError(f"{path}: is an archive whose name does not end in .tar or .zip", hint="rename it")
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
    for magic, what, hint in OTHERS:
        if start.startswith(magic):
            return DataError(f"{path}: is {what}", hint=hint.format(path))
    return DataError(f"{path}: is neither a tar nor a zip, or its start is damaged", hint=PLAIN)


def _version(path: Path) -> tuple[int, int, int]:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return (0, 0, 0)
