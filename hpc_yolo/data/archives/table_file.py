"""The table of a large archive's members in a file beside the archive, mapped into memory by each process."""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Callable
from pathlib import Path

from hpc_yolo.core.files import write_atomic
from hpc_yolo.data.archives.members import MAX_MEMBER_BYTES, MemberTable

VERSION = 2
MIN_MEMBERS = 10_000  # of smaller archives the table is read in less than 0.2 s
LENGTH_BYTES = 8
NUM_COLUMNS = 4  # of one number for each member; bounds have one more


def kept_table(archive: Path, read: Callable[[], MemberTable]) -> MemberTable:
    """Return the table of the file beside `archive`, or what `read` returns, which is kept there if it is large.

    Raises:
        OSError: the archive cannot be read.
        ValueError: raised by `read`.
    """
    path = archive.with_name(f".{archive.name}.hpc-yolo.members")
    found = archive.stat()
    key = [VERSION, found.st_size, found.st_mtime_ns]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _mapped(path, key)
    table = read()
    if len(table) >= MIN_MEMBERS:
        with contextlib.suppress(OSError):
            write_atomic(path, _content(table, key), mode=0o644)
    return table


def _content(table: MemberTable, key: list[int]) -> bytes:
    header = json.dumps({"key": key, "members": len(table), "names": len(table.names)}).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)
    columns = (table.bounds, table.offsets, table.stored, table.sizes, table.crc32s)
    parts = [*(memoryview(column).tobytes() for column in columns), bytes(table.methods), bytes(table.names)]
    return b"".join([len(header).to_bytes(LENGTH_BYTES, "little"), header, *parts])


def _mapped(path: Path, key: list[int]) -> MemberTable:
    """Return the table in the file `path`.

    Raises:
        OSError: there is none.
        ValueError, KeyError, TypeError: it is of another archive, or damaged.
    """
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    header = json.loads(bytes(content[LENGTH_BYTES:start]))
    number, names = int(header["members"]), int(header["names"])
    end = start + LENGTH_BYTES * ((1 + NUM_COLUMNS) * number + 1)
    if header["key"] != key or len(content) != end + number + names:
        raise ValueError
    numbers = content[start:end].cast("q")
    bounds, columns = numbers[: number + 1], numbers[number + 1 :]
    offsets, stored, sizes, crc32s = (columns[at * number : (at + 1) * number] for at in range(NUM_COLUMNS))
    if bounds[-1] != names or max(sizes, default=0) > MAX_MEMBER_BYTES or min(offsets, default=0) < 0:
        raise ValueError
    methods = content[end : end + number]
    return MemberTable(content[end + number :], bounds, offsets, stored, sizes, crc32s, methods)
