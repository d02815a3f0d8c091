"""The files of a squashfs image of version 4, read in place: https://docs.kernel.org/filesystems/squashfs.html.

An inode is found by a reference: the start of its metadata block in the inode table, and its place in that block.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from hpc_yolo.data.archives.decompression import Decompress, decompressor
from hpc_yolo.data.archives.members import (
    MAX_MEMBERS,
    SLASH,
    Member,
    cleaned_name,
    link_target,
    linked_members,
    require_size,
)

MAGIC = b"hsqs"
SUPERBLOCK = struct.Struct("<4s4I6H8Q")
INODE = struct.Struct("<4H2I")
FILE, LONG_FILE = struct.Struct("<4I"), struct.Struct("<3Q4I")
DIRECTORY, LONG_DIRECTORY = struct.Struct("<2I2HI"), struct.Struct("<4I2HI")
LINK = struct.Struct("<2I")
LIST_HEADER, LIST_ENTRY = struct.Struct("<3I"), struct.Struct("<HhHH")
FRAGMENT = struct.Struct("<Q2I")
LONG = 7  # added to the type of an inode in its longer form
DIRECTORY_TYPE, FILE_TYPE, LINK_TYPE = 1, 2, 3
REFUSED = {4: "a device", 5: "a device", 6: "a FIFO", 7: "a socket"}
NO_FRAGMENT = 0xFFFFFFFF
METADATA_BYTES, STORED_METADATA = 8192, 0x8000
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES, STORED_BLOCK = 4096, 1 << 20, 1 << 24
LISTED_MORE = 3  # bytes that the size of a listing counts for . and ..
KEPT_METADATA, KEPT_FRAGMENTS = 1024, 4  # blocks: 8 MB at most of each table, and 4 MB
MAX_LINK_BYTES = 4096
CUT_OFF = "it is cut off or damaged"

Read = Callable[[int, int], bytes]  # (number of bytes, offset) -> bytes, fewer at the end


class _File(NamedTuple):
    """The inode of a file; `lengths` is the position of the list of its blocks' lengths."""

    start: int
    size: int
    fragment: int
    fragment_offset: int
    lengths: tuple[int, int]


class _Table:
    """A table of metadata blocks, each with its length in front."""

    def __init__(self, read: Read, start: int, decompress: Decompress) -> None:
        self._read, self._start, self._decompress = read, start, decompress
        self._block = lru_cache(KEPT_METADATA)(self._read_block)

    def read(self, position: tuple[int, int], size: int) -> tuple[bytes, tuple[int, int]]:
        """Return (`size` bytes from `position`, the position after them); a position is (block, offset in it).

        Raises:
            ValueError: the table is damaged.
        """
        block, offset = position
        parts = []
        while size > 0:
            content, following = self._block(block)
            part = content[offset : offset + size]
            if not part:
                raise ValueError(CUT_OFF)
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
            if offset == len(content):
                block, offset = following, 0
        return b"".join(parts), (block, offset)

    def _read_block(self, block: int) -> tuple[bytes, int]:
        """Return (content of the block, where the next one starts)."""
        stored = self._read(METADATA_BYTES + 2, self._start + block)
        length = int.from_bytes(stored[:2], "little")
        size = length & ~STORED_METADATA
        content = stored[2 : 2 + size]
        if not 0 < size <= METADATA_BYTES or len(content) < size:
            raise ValueError(CUT_OFF)
        if not length & STORED_METADATA:
            content = self._decompress(content, METADATA_BYTES)
        return content, block + 2 + size


class Squashfs:
    """The tables of an image. Blocks of them are kept in memory once read."""

    def __init__(self, read: Read) -> None:
        """Read the superblock and the table of fragments.

        Args:
            read: returns so many bytes of the image at an offset.

        Raises:
            OSError: raised by `read`.
            ValueError: it is damaged, of another version, or compressed in a way that is not installed or known.
        """
        fields = SUPERBLOCK.unpack_from(read(SUPERBLOCK.size, 0).ljust(SUPERBLOCK.size, b"\0"))
        _, _, _, self._block_bytes, num_fragments, compression, log, _, _, major, minor, self._root = fields[:12]
        _, _, _, inodes, directories, fragments, _ = fields[12:]
        if (major, minor) != (4, 0):
            raise ValueError(f"it is a squashfs of version {major}.{minor}; 4.0 is read")
        if not MIN_BLOCK_BYTES <= self._block_bytes <= MAX_BLOCK_BYTES or self._block_bytes != 1 << log:
            raise ValueError(CUT_OFF)
        self._read, self._decompress = read, decompressor(compression)
        self._inodes = _Table(read, inodes, self._decompress)
        self._directories = _Table(read, directories, self._decompress)
        self._fragments = self._fragment_table(fragments, num_fragments)
        self._fragment = lru_cache(KEPT_FRAGMENTS)(self._read_fragment)

    def members(self) -> Iterator[Member]:
        """Yield the files of the image; a link is the file that it leads to.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged, or has a member that is refused.
        """
        files: dict[bytes, Member] = {}
        links: list[tuple[bytes, bytes]] = []
        for number, (name, reference, kind) in enumerate(self._entries()):
            if number == MAX_MEMBERS:
                raise ValueError(f"more than {MAX_MEMBERS} members")
            if kind == FILE_TYPE:
                files[name] = self._member(name, reference)
                yield files[name]
            elif kind == LINK_TYPE:
                links.append((name, link_target(name, self._link(reference))))
            else:
                what = REFUSED.get(kind, f"of the unknown type {kind}")
                raise ValueError(f"{name.decode(errors='replace')} is {what}")
        yield from linked_members(files, links)

    def content(self, member: Member) -> bytes:
        """Return the content of `member`.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
        """
        file = self._file(member.offset)
        if file.size != member.size:
            raise ValueError(CUT_OFF)
        parts, left, offset = [], file.size, file.start
        for length in self._lengths(file):
            size = min(left, self._block_bytes)
            parts.append(self._block(offset, length, size))
            left, offset = left - size, offset + (length & ~STORED_BLOCK)
        if left:
            tail = self._fragment(file.fragment)[file.fragment_offset : file.fragment_offset + left]
            if len(tail) != left:
                raise ValueError(CUT_OFF)
            parts.append(tail)
        return b"".join(parts)

    def _member(self, name: bytes, reference: int) -> Member:
        file = self._file(reference)
        require_size(name, file.size, file.size)  # before the list of its blocks is read, which is as long
        lengths = self._lengths(file)
        stored = sum(length & ~STORED_BLOCK for length in lengths)
        tail = max(0, file.size - len(lengths) * self._block_bytes)
        require_size(name, file.size, stored + tail)
        return Member(name, reference, stored + tail, file.size)

    def _entries(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, reference, type) of all that are no directories."""
        directories, seen = [(b"", self._root)], {self._root}
        while directories:
            above, reference = directories.pop()
            for written, found, kind in self._listing(reference):
                name = cleaned_name(above + written)
                if kind != DIRECTORY_TYPE:
                    yield name, found, kind
                elif found in seen:
                    raise ValueError(f"the directory {name.decode(errors='replace')} is in the image twice")
                else:
                    seen.add(found)
                    directories.append((name + SLASH, found))

    def _listing(self, reference: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, reference, type) of what is in a directory."""
        kind, position = self._inode(reference)
        if kind == DIRECTORY_TYPE:
            block, _, size, offset, _ = self._fields(self._inodes, DIRECTORY, position)[0]
        elif kind == DIRECTORY_TYPE + LONG:
            _, size, block, _, _, offset, _ = self._fields(self._inodes, LONG_DIRECTORY, position)[0]
        else:
            raise ValueError(CUT_OFF)
        position, left = (block, offset), size - LISTED_MORE
        while left > 0:
            (count, start, _), position = self._fields(self._directories, LIST_HEADER, position)
            left -= LIST_HEADER.size
            for _ in range(count + 1):
                (offset, _, kind, length), position = self._fields(self._directories, LIST_ENTRY, position)
                name, position = self._directories.read(position, length + 1)
                left -= LIST_ENTRY.size + length + 1
                if left < 0:
                    raise ValueError(CUT_OFF)
                yield name, start << 16 | offset, kind

    def _inode(self, reference: int) -> tuple[int, tuple[int, int]]:
        """Return (type of an inode, position after the fields that all types have)."""
        fields, position = self._fields(self._inodes, INODE, (reference >> 16, reference & 0xFFFF))
        return fields[0], position

    def _file(self, reference: int) -> _File:
        kind, position = self._inode(reference)
        if kind == FILE_TYPE:
            (start, fragment, offset, size), position = self._fields(self._inodes, FILE, position)
        elif kind == FILE_TYPE + LONG:
            (start, size, _, _, fragment, offset, _), position = self._fields(self._inodes, LONG_FILE, position)
        else:
            raise ValueError(CUT_OFF)
        return _File(start, size, fragment, offset, position)

    def _lengths(self, file: _File) -> tuple[int, ...]:
        """Return the stored length of each block of a file, with STORED_BLOCK for one that is not compressed."""
        number = file.size // self._block_bytes
        if file.fragment == NO_FRAGMENT and file.size % self._block_bytes:
            number += 1
        return struct.unpack(f"<{number}I", self._inodes.read(file.lengths, 4 * number)[0])

    def _link(self, reference: int) -> bytes:
        """Return what a symbolic link contains."""
        kind, position = self._inode(reference)
        (_, size), position = self._fields(self._inodes, LINK, position)
        if kind not in (LINK_TYPE, LINK_TYPE + LONG) or size > MAX_LINK_BYTES:
            raise ValueError(CUT_OFF)
        return self._inodes.read(position, size)[0]

    def _fragment_table(self, start: int, number: int) -> bytes:
        """Return the entries of all fragments, one after the other."""
        num_blocks = -(-number * FRAGMENT.size // METADATA_BYTES)
        starts = self._read(8 * num_blocks, start)
        if len(starts) != 8 * num_blocks:
            raise ValueError(CUT_OFF)
        table = _Table(self._read, 0, self._decompress)
        left, parts = number * FRAGMENT.size, []
        for (block,) in struct.iter_unpack("<Q", starts):
            parts.append(table.read((block, 0), min(left, METADATA_BYTES))[0])
            left -= METADATA_BYTES
        return b"".join(parts)

    def _read_fragment(self, number: int) -> bytes:
        """Return the block that holds ends of several files."""
        if (number + 1) * FRAGMENT.size > len(self._fragments):
            raise ValueError(CUT_OFF)
        offset, length, _ = FRAGMENT.unpack_from(self._fragments, number * FRAGMENT.size)
        return self._stored_block(offset, length)

    def _block(self, offset: int, length: int, size: int) -> bytes:
        """Return a block of a file, of `size` bytes; a block of zeros is not stored."""
        content = self._stored_block(offset, length) if length else bytes(size)
        if len(content) != size:
            raise ValueError(CUT_OFF)
        return content

    def _stored_block(self, offset: int, length: int) -> bytes:
        size = length & ~STORED_BLOCK
        if size > self._block_bytes:
            raise ValueError(CUT_OFF)
        stored = self._read(size, offset)
        if len(stored) != size:
            raise ValueError(CUT_OFF)
        return stored if length & STORED_BLOCK else self._decompress(stored, self._block_bytes)

    def _fields(
        self, table: _Table, form: struct.Struct, position: tuple[int, int]
    ) -> tuple[tuple[int, ...], tuple[int, int]]:
        """Return (the numbers of `form` at `position`, the position after them)."""
        content, position = table.read(position, form.size)
        return form.unpack(content), position


def is_squashfs(start: bytes) -> bool:
    """Return True if a file that starts with these bytes is a squashfs image."""
    return start.startswith(MAGIC)
