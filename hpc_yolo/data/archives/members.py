"""The members of an archive: checks of their names and sizes, and a table that finds them by name.

The table is a few flat arrays, so that forked loader workers share its pages.
"""

from __future__ import annotations

import posixpath
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

MAX_MEMBERS = 20_000_000
MAX_NAME_BYTES = 4096
MAX_MEMBER_BYTES = 2 << 30
MAX_RATIO = 100  # of a deflated member larger than CHECKED_BYTES: images and labels do not shrink as much
CHECKED_BYTES = 64 << 20
CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
STORED, DEFLATED = 0, 8
NO_CRC32 = -1
Numbers: TypeAlias = "array[int] | memoryview"
SLASH, AFTER_SLASH = b"/", b"0"  # b"0" follows b"/", so that names below a directory are between the two


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        offset: of its content in the archive, or of the header in front of it, in bytes; in a squashfs image the
            reference of its inode.
        stored: bytes that are read for it, at `offset` in a tar or zip.
        size: of its content in bytes.
        method: STORED or DEFLATED.
        crc32: of its content; NO_CRC32 where the archive lists none.
    """

    name: bytes
    offset: int
    stored: int
    size: int
    method: int = STORED
    crc32: int = NO_CRC32


@dataclass(frozen=True)
class MemberTable:
    """The files of an archive, sorted by the bytes of their names.

    Attributes:
        names: one after the other.
        bounds: file i has the name from bounds[i] to before bounds[i + 1].
    """

    names: bytes | memoryview
    bounds: Numbers
    offsets: Numbers
    stored: Numbers
    sizes: Numbers
    crc32s: Numbers
    methods: bytes | memoryview

    @staticmethod
    def of(members: Iterable[Member]) -> MemberTable:
        """Return the table of `members`.

        Raises:
            ValueError: two have the same name, one is also the directory of another, or there are too many.
        """
        files = sorted(members)
        _require_own_names([file.name for file in files])
        bounds = array("q", [0])
        for file in files:
            bounds.append(bounds[-1] + len(file.name))
        return MemberTable(
            names=b"".join(file.name for file in files),
            bounds=bounds,
            offsets=array("q", [file.offset for file in files]),
            stored=array("q", [file.stored for file in files]),
            sizes=array("q", [file.size for file in files]),
            crc32s=array("q", [file.crc32 for file in files]),
            methods=bytes(file.method for file in files),
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, position: int) -> bytes:
        """Return the name of a file by its position."""
        return bytes(self.names[self.bounds[position] : self.bounds[position + 1]])

    def find(self, name: bytes) -> Member | None:
        """Return the file `name`, None if there is none."""
        at = self._first(name)
        if at == len(self) or self.name(at) != name:
            return None
        return Member(name, self.offsets[at], self.stored[at], self.sizes[at], self.methods[at], self.crc32s[at])

    def has_directory(self, name: bytes) -> bool:
        """Return True if a file is in the directory `name`; b"" is that of all files."""
        return next(self.below(name), None) is not None

    def below(self, directory: bytes) -> Iterator[bytes]:
        """Yield the names of all files in `directory` and in those below it."""
        start, end = (self._first(directory + SLASH), self._first(directory + AFTER_SLASH))
        if not directory:
            start, end = 0, len(self)
        return map(self.name, range(start, end))

    def _first(self, name: bytes) -> int:
        return bisect_left(range(len(self)), name, key=self.name)


def cleaned_name(written: bytes) -> bytes:
    """Return the name of a member without `./` and repeated slashes; b"" for the top directory.

    Raises:
        ValueError: it leads out of the archive, or cannot be a path.
    """
    shown = written[:80].decode(errors="replace")
    if written.startswith(b"/") or written[1:3] in (b":/", b":\\"):
        raise ValueError(f"the name of a member is absolute: {shown!r}")
    parts = [part for part in written.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ValueError(f"the name of a member leads out of the archive: {shown!r}")
    if len(written) > MAX_NAME_BYTES or CONTROL.search(written):
        raise ValueError(f"the name of a member is too long or has control characters: {shown!r}")
    return b"/".join(parts)


def require_size(name: bytes, size: int, stored: int) -> None:
    """Check the size of a member.

    Raises:
        ValueError: it is too large, or cannot be what so few bytes hold.
    """
    shown = name.decode(errors="replace")
    if size > MAX_MEMBER_BYTES:
        raise ValueError(f"{shown} has {size} bytes; no image or list of a dataset is larger than {MAX_MEMBER_BYTES}")
    if size > CHECKED_BYTES and size > MAX_RATIO * stored:
        raise ValueError(f"{shown} would have {size} bytes, from {stored}: more than {MAX_RATIO} times as many")


def link_target(name: bytes, target: bytes) -> bytes:
    """Return the name of the member to which the symbolic link `name` leads; a path, if it leads out."""
    if target.startswith(SLASH):
        return target
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def linked_members(files: Mapping[bytes, Member], links: Iterable[tuple[bytes, bytes]]) -> Iterator[Member]:
    """Yield the members that are links, given as (name, name of a file of the archive).

    Raises:
        ValueError: one leads to no file of the archive.
    """
    for name, target in links:
        if target not in files:
            shown = name.decode(errors="replace")
            raise ValueError(f"{shown} is a link to {target.decode(errors='replace')!r}, no file of the archive")
        yield files[target]._replace(name=name)


def _require_own_names(names: list[bytes]) -> None:
    """Check sorted names."""
    if len(names) > MAX_MEMBERS:
        raise ValueError(f"more than {MAX_MEMBERS} members")
    twice = next((name for name, after in pairwise(names) if name == after), None)
    if twice is not None:
        raise ValueError(f"two members have the name {twice.decode(errors='replace')}")
    directories = {name.rpartition(SLASH)[0] for name in names}
    directories |= {above for name in directories for above in _above(name)}
    both = next((name for name in names if name in directories), None)
    if both is not None:
        raise ValueError(f"{both.decode(errors='replace')} is a file, and has members below it")


def _above(directory: bytes) -> Iterator[bytes]:
    while directory := directory.rpartition(SLASH)[0]:
        yield directory
