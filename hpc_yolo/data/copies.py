"""Copies of files on this node, which are read instead of the files themselves: see `staging`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import FileIO


class _Copies:
    """The directory below which the copies are, at the absolute paths of their files; "" for none."""

    directory = ""


@contextlib.contextmanager
def reading_copies(directory: str) -> Iterator[None]:
    """Read the copies of files below `directory`, where they are, within the block; in forked processes too.

    Args:
        directory: has each file at the absolute path of its source; "" changes nothing.
    """
    before, _Copies.directory = _Copies.directory, directory
    try:
        yield
    finally:
        _Copies.directory = before


def readable_files(path: str) -> list[str]:
    """Return where the file `path` may be read: its copy on this node, which may not exist, and itself."""
    return [f"{_Copies.directory}{os.path.abspath(path)}", path] if _Copies.directory else [path]  # noqa: PTH100


def are_read() -> bool:
    """Return True within a block of `reading_copies`."""
    return bool(_Copies.directory)


def open_file(path: str) -> FileIO:
    """Open the copy of the file `path` for reading, or itself where there is none.

    Raises:
        OSError: neither can be opened.
    """
    *copies, source = readable_files(path)
    for copy in copies:
        with contextlib.suppress(OSError):
            return FileIO(copy)
    return FileIO(source)
