"""The bytes of images, by their address in an `ImageIndex`: the one module that opens them.

An address is the path of a file, or that of an archive or a shard of a packed set followed by the name of a member:
coco.zip/images/train/1.jpg, DIR/train-00000.tar/images/train/1.jpg.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from hpc_yolo.data.archives.archive import PARTS, member_of
from hpc_yolo.data.copies import readable_files
from hpc_yolo.data.pack.index import SplitIndex, shard_index


class ContentState(NamedTuple):
    """Length of a content in bytes, and a number that changes when the content does."""

    length: int
    version: int


def read_content(path: str) -> bytes:
    """Return the bytes of the image with the address `path`.

    Raises:
        OSError: they cannot be read, or are damaged; its `filename` is `path`.
        DataError: it is in an archive that is refused.
    """
    try:
        if PARTS.search(path):
            if (member := _packed_member(path)) is not None:
                return member[0].read_member(*member[1:])
            if (place := member_of(path)) is not None:
                return place[0].read(place[1])
        return _read_file(path)
    except OSError as error:
        error.filename = path  # a failed read has none
        raise


def _read_file(path: str) -> bytes:
    """Return the bytes of the file `path`, from its copy on this node if that can be read."""
    *copies, source = readable_files(path)
    for copy in copies:
        with contextlib.suppress(OSError), open(copy, "rb", buffering=0) as file:
            return file.read()
    with open(source, "rb", buffering=0) as file:
        return file.read()


def content_state(path: str) -> ContentState:
    """Return the length and version of the image with the address `path`, without reading it.

    Raises:
        OSError: there is no such image.
    """
    if PARTS.search(path):
        if (member := _packed_member(path)) is not None:
            return ContentState(*member[0].state(member[0].find_member(*member[1:])))
        if (place := member_of(path)) is not None:
            return ContentState(place[0].find(place[1]).size, place[0].version[-1])
    found = os.stat(path)  # noqa: PTH116, a Path costs more than the call
    return ContentState(found.st_size, found.st_mtime_ns)


def _packed_member(path: str) -> tuple[SplitIndex, int, str] | None:
    """Return (index, number of the shard, name of the member) of an address in a packed set; None for others."""
    for found in PARTS.finditer(path):
        shard = shard_index(path[: found.end()])
        if shard is not None:
            return *shard, path[found.end() + 1 :]
    return None
