"""The members of a zip file, from its central directory. Members are stored or deflated."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from hpc_yolo.data.archives.members import DEFLATED, MAX_MEMBERS, STORED, Member, cleaned_name, require_size

END, END_64, LOCATOR_64, ENTRY, LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04"
END_FORM = struct.Struct("<4s4H2LH")
END_64_FORM = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64_FORM = struct.Struct("<4sLQL")
ENTRY_FORM = struct.Struct("<4s6H3L5H2L")
LOCAL_FORM = struct.Struct("<4s5H3L2H")
MAX_COMMENT_BYTES = 0xFFFF
MAX_DIRECTORY_BYTES = 4 << 30
IN_64 = 0xFFFFFFFF
NUMBER_RANGE = 0x10000  # some programs count more entries modulo this
ENCRYPTED = 0x1
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
UNIX = 3
NOT_ZIP = "it is cut off, or no zip: the directory at its end is missing"


class _Entry(NamedTuple):
    """An entry of the central directory; `offset` is that of the local header."""

    name: bytes
    offset: int
    compressed: int
    size: int
    method: int
    crc32: int


def is_zip(start: bytes) -> bool:
    """Return True if a file that starts with these bytes is a zip."""
    return start.startswith((LOCAL, END))


def zip_members(file: int) -> Iterator[Member]:
    """Yield the files of the zip with the descriptor `file`; each is stored from its local header to the next one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged or cut off, or has a member that is refused.
    """
    start, directory, num_entries = _directory(file)
    entries = sorted(_entries(directory, num_entries), key=lambda entry: entry.offset)
    limits = [entry.offset for entry in entries[1:]] + [start]
    for entry, limit in zip(entries, limits, strict=True):
        least = LOCAL_FORM.size + len(entry.name) + entry.compressed
        if entry.offset + least > limit:
            raise ValueError(f"{_shown(entry.name)} overlaps with another member, or with the directory at the end")
        name = cleaned_name(_decoded(entry.name))
        if entry.name.endswith(b"/"):
            continue
        require_size(name, entry.size, entry.compressed)
        stored = min(limit - entry.offset, least + MAX_COMMENT_BYTES)
        yield Member(name, entry.offset, stored, entry.size, entry.method, entry.crc32)


def zip_content(member: Member, stored: bytes) -> bytes:
    """Return the content of `member`, given its bytes from the local header on.

    Raises:
        ValueError: they are damaged.
    """
    if len(stored) < LOCAL_FORM.size or not stored.startswith(LOCAL):
        raise ValueError("its header is damaged")
    fields = LOCAL_FORM.unpack_from(stored)
    written = memoryview(stored)[LOCAL_FORM.size + fields[9] + fields[10] :]
    content = _inflated(member, written) if member.method == DEFLATED else bytes(written[: member.size])
    if len(content) < member.size:
        raise ValueError("it is cut off")
    if zlib.crc32(content) != member.crc32:
        raise ValueError("it is damaged: not the CRC of the archive")
    return content


def _inflated(member: Member, written: memoryview) -> bytes:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = decoder.decompress(written, member.size + 1)
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from None
    if len(content) != member.size:
        raise ValueError(f"it does not have the {member.size} bytes that the archive lists")
    return content


def _directory(file: int) -> tuple[int, bytes, int]:
    """Return (offset of the central directory, its bytes, number of entries)."""
    length = os.fstat(file).st_size
    tail_offset = max(0, length - END_FORM.size - MAX_COMMENT_BYTES)
    tail = os.pread(file, length - tail_offset, tail_offset)
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < END_FORM.size:
        raise ValueError(NOT_ZIP)
    _, disk, _, _, number, size, offset, _ = END_FORM.unpack_from(tail, at)
    if disk not in (0, 0xFFFF):
        raise ValueError("it is one part of several")
    end = tail_offset + at
    if number == 0xFFFF or size == IN_64 or offset == IN_64:
        number, size, offset, end = _end_64(file, end) or (number, size, offset, end)
    if number > MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        raise ValueError(f"more than {MAX_MEMBERS} members")
    if offset + size > end or number * ENTRY_FORM.size > size:
        raise ValueError(NOT_ZIP)
    return offset, os.pread(file, size, offset), number


def _end_64(file: int, end: int) -> tuple[int, int, int, int] | None:
    """Return (number of entries, size and offset of the directory, its end) of a large zip."""
    locator = os.pread(file, LOCATOR_64_FORM.size, max(0, end - LOCATOR_64_FORM.size))
    if not locator.startswith(LOCATOR_64) or len(locator) < LOCATOR_64_FORM.size:
        return None
    at = LOCATOR_64_FORM.unpack(locator)[2]
    record = os.pread(file, END_64_FORM.size, min(at, end))
    if len(record) < END_64_FORM.size or not record.startswith(END_64):
        raise ValueError(NOT_ZIP)
    fields = END_64_FORM.unpack(record)
    return fields[7], fields[8], fields[9], at


def _entries(directory: bytes, num_entries: int) -> Iterator[_Entry]:
    position = num_read = 0
    while position < len(directory):
        num_read += 1
        if position + ENTRY_FORM.size > len(directory) or not directory.startswith(ENTRY, position):
            raise ValueError("it is damaged: an entry of the directory at its end is missing")
        fields = ENTRY_FORM.unpack_from(directory, position)
        name_bytes, extra_bytes, comment_bytes = fields[10:13]
        name_at = position + ENTRY_FORM.size
        name = directory[name_at : name_at + name_bytes]
        extra = directory[name_at + name_bytes : name_at + name_bytes + extra_bytes]
        _require_readable(name, fields)
        offset, compressed, size = _large_values(extra, size=fields[9], compressed=fields[8], offset=fields[16])
        yield _Entry(name, offset, compressed, size, method=fields[4], crc32=fields[7])
        position = name_at + name_bytes + extra_bytes + comment_bytes
    if num_read % NUMBER_RANGE != num_entries % NUMBER_RANGE:
        raise ValueError(f"it is damaged: its directory has {num_read} entries, and {num_entries} are written")


def _require_readable(name: bytes, fields: tuple[int, ...]) -> None:
    made_by, flags, method, mode = fields[1] >> 8, fields[3], fields[4], fields[15] >> 16
    if flags & ENCRYPTED:
        raise ValueError(f"{_shown(name)} is encrypted")
    if method not in (STORED, DEFLATED):
        raise ValueError(f"{_shown(name)} is compressed with {METHODS.get(method, f'method {method}')}, not Deflate")
    if made_by == UNIX and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"{_shown(name)} is {'a link' if stat.S_ISLNK(mode) else 'no regular file'}")


def _large_values(extra: bytes, *, size: int, compressed: int, offset: int) -> tuple[int, int, int]:
    """Return (offset, compressed size, size), each from the extra field of large zips where it is there."""
    position, large = 0, b""
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            large = extra[position + 4 : position + 4 + length]
        position += 4 + length
    values = [size, compressed, offset]
    for index, value in enumerate(values):
        if value == IN_64 and len(large) >= 8:
            values[index], large = int.from_bytes(large[:8], "little"), large[8:]
    return values[2], values[1], values[0]


def _decoded(name: bytes) -> bytes:
    """Return a name in UTF-8 with slashes; one that is not UTF-8 is of the code page of old programs."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("cp437")
    return text.replace("\\", "/").encode()


def _shown(name: bytes) -> str:
    return name[:80].decode(errors="replace")
