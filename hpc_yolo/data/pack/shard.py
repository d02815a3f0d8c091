"""Writing one shard: a plain tar file whose bytes depend on its members alone."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)


class Member(NamedTuple):
    """An image to be packed: its name, content, and size in pixels."""

    name: str
    content: bytes
    shape_hw: tuple[int, int]


class Entry(NamedTuple):
    """A written member: where its content is in the shard, with its CRC-32 and size in pixels."""

    offset: int
    length: int
    crc32: int
    height: int
    width: int


class ShardWriter:
    """Writes members to a file of at most `max_bytes`, or of a single larger one, and keeps its size and CRC-32."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self.size, self.crc32 = 0, 0

    def fill(
        self, first: Member, members: Iterator[Member], on_written: Callable[[], None]
    ) -> tuple[list[Entry], Member | None]:
        """Write `first` and as many of `members` as have room; call `on_written` after each.

        Returns:
            (an entry for each written member, the member after them or None).

        Raises:
            OSError: the file cannot be written.
        """
        entries: list[Entry] = []
        following: Member | None = first
        while following is not None:
            if entries and self.size + len(following.content) > self._max_bytes:
                break
            entries.append(self._add(following))
            on_written()
            following = next(members, None)
        self._write(END)
        return entries, following

    def _add(self, member: Member) -> Entry:
        self._write(header(member.name, len(member.content)))
        offset, length = self.size, len(member.content)
        self._write(member.content)
        self._write(padding(length))
        return Entry(offset, length, zlib.crc32(member.content), *member.shape_hw)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self.crc32 = zlib.crc32(content, self.crc32)
        self.size += len(content)


def header(name: str, length: int) -> bytes:
    """Return the header of a member, which has neither a time nor an owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = length, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(length: int) -> bytes:
    """Return the zeros after a content of `length` bytes."""
    return bytes(-length % BLOCK_BYTES)


def total_bytes(lengths: Iterable[int]) -> int:
    """Return the bytes that members of these lengths take, without the rare headers of long names."""
    return sum(BLOCK_BYTES + length + -length % BLOCK_BYTES for length in lengths)
