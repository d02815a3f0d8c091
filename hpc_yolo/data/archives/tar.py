"""The members of a plain tar file: ustar, GNU and pax headers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from hpc_yolo.data.archives.members import MAX_MEMBERS, Member, cleaned_name, link_target, linked_members, require_size

BLOCK = 512
WINDOW_BYTES = 8 * BLOCK  # read at once: small members, such as label files, follow each other within it
MAX_EXTRA_BYTES = 1 << 20  # of a header with a long name or other attributes
FILE, HARD_LINK, LINK, DIRECTORY = b"0", b"1", b"2", b"5"
FILES = (FILE, b"\0", b"7")
LONG_NAME, LONG_LINK, PAX, GLOBAL_PAX = b"L", b"K", b"x", b"g"
EXTRA = (LONG_NAME, LONG_LINK, PAX, GLOBAL_PAX)
REFUSED = {b"3": "a device", b"4": "a device", b"6": "a FIFO", b"S": "a sparse file", b"M": "a part of a larger file"}
MAGIC = slice(257, 262)


class _Header(NamedTuple):
    name: bytes
    link: bytes
    kind: bytes
    size: int
    content: int  # offset


def is_tar(start: bytes) -> bool:
    """Return True if a file that starts with these 512 bytes is a plain tar."""
    return len(start) == BLOCK and _has_checksum(start)


def tar_members(file: int) -> Iterator[Member]:
    """Yield the files of the tar with the descriptor `file`; a link is the file that it leads to.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged or cut off, or has a member that is refused.
    """
    files: dict[bytes, Member] = {}
    links: list[tuple[bytes, bytes]] = []
    for number, header in enumerate(_headers(file)):
        if number == MAX_MEMBERS:
            raise ValueError(f"more than {MAX_MEMBERS} members")
        name = cleaned_name(header.name)
        if header.kind in REFUSED or header.kind not in (*FILES, HARD_LINK, LINK, DIRECTORY):
            kind = REFUSED.get(header.kind, f"of the unknown kind {header.kind!r}")
            raise ValueError(f"{name.decode(errors='replace')} is {kind}")
        if header.kind in (HARD_LINK, LINK):
            links.append((name, _target(name, header)))
        elif header.kind != DIRECTORY and not header.name.endswith(b"/"):
            member = Member(name, header.content, header.size, header.size)
            yield member
            files[name] = member
    yield from linked_members(files, links)


def _target(name: bytes, header: _Header) -> bytes:
    """Return the name of the member that a link leads to."""
    if header.kind == HARD_LINK:
        return cleaned_name(header.link)
    return link_target(name, header.link)


def _headers(file: int) -> Iterator[_Header]:
    """Yield the headers of all members, with long names and sizes applied."""
    end, offset, window = os.fstat(file).st_size, 0, (0, b"")
    extra: dict[bytes, bytes] = {}
    while offset + BLOCK <= end:
        if not window[0] <= offset <= window[0] + len(window[1]) - BLOCK:
            window = offset, os.pread(file, WINDOW_BYTES, offset)
        block = window[1][offset - window[0] : offset - window[0] + BLOCK]
        if block == bytes(BLOCK):
            return
        header = _parsed(block, offset, extra)
        if header.content + header.size > end:
            raise ValueError(f"it is cut off: {_shown(header)} exceeds its {end} bytes")
        offset = header.content + header.size + -header.size % BLOCK
        if header.kind in EXTRA:
            if header.size > MAX_EXTRA_BYTES:
                raise ValueError(f"a header of {header.size} bytes")
            extra |= _attributes(header.kind, os.pread(file, header.size, header.content))
            continue
        extra = {}
        require_size(header.name, header.size, header.size)
        yield header
    raise ValueError(f"it is cut off after {end} bytes: its end mark is missing")


def _parsed(block: bytes, offset: int, extra: dict[bytes, bytes]) -> _Header:
    if len(block) < BLOCK or not _has_checksum(block):
        raise ValueError(f"it is damaged: no header at byte {offset}")
    name, prefix = _text(block[:100]), _text(block[345:500])
    if block[MAGIC] == b"ustar" and block[262:263] == b"\0" and prefix:
        name = prefix + b"/" + name
    kind = block[156:157]
    size = int(extra[b"size"]) if b"size" in extra and kind not in EXTRA else _number(block[124:136])
    if kind in (HARD_LINK, LINK, DIRECTORY):
        size = 0
    return _Header(extra.get(b"path", name), extra.get(b"linkpath", _text(block[157:257])), kind, size, offset + BLOCK)


def _attributes(kind: bytes, content: bytes) -> dict[bytes, bytes]:
    """Return what a header before another one says about it: path, linkpath, size."""
    if kind in (LONG_NAME, LONG_LINK):
        return {b"path" if kind == LONG_NAME else b"linkpath": _text(content)}
    found, position = {}, 0
    while position < len(content) and content[position]:
        digits = content[position : position + 8].partition(b" ")[0]
        if not digits.isdigit() or not int(digits):
            raise ValueError("it is damaged: an invalid pax header")
        key, _, value = content[position + len(digits) + 1 : position + int(digits) - 1].partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise ValueError("it has a sparse file")
        if key == b"size" and not value.isdigit():
            raise ValueError("it is damaged: an invalid size")
        if key in (b"path", b"linkpath", b"size"):
            if kind == GLOBAL_PAX:
                raise ValueError(f"it has one {key.decode()} for all members")
            found[key] = value
        position += int(digits)
    return found


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Return a number that is written in octal digits or, if it is large, in binary."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big", signed=True) if field[0] == 0xFF else int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if digits.strip(b"01234567"):
            raise ValueError("it is damaged: an invalid size")
        number = int(digits or b"0", 8)
    if number < 0:
        raise ValueError("it is damaged: a negative size")
    return number


def _has_checksum(block: bytes) -> bool:
    if block == bytes(BLOCK):
        return True
    try:
        written = _number(block[148:156])
    except ValueError:
        return False
    return written == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _shown(header: _Header) -> str:
    return header.name[:80].decode(errors="replace") or "a member"
