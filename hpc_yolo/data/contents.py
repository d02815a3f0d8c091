"""The bytes of images, by their address in an `ImageIndex`: the one module that opens them.

An address is the path of a file, or that of an archive or a shard of a packed set followed by the name of a member:
coco.zip/images/train/1.jpg, DIR/train-00000.tar/images/train/1.jpg.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.data import copies
from hpc_yolo.data.archives.archive import PARTS, member_of
from hpc_yolo.data.decode import lacks_end_mark
from hpc_yolo.data.pack.index import SplitIndex, shard_index

Result = TypeVar("Result")
# Errors of the process or the machine, and what to do.
LIMITS = {
    errno.EMFILE: "raise the limit of open files with: ulimit -n 65536",
    errno.ENFILE: "too many files are open on this machine; try again later",
    errno.ENOMEM: "request more memory (cluster.mem), or fewer train.workers",
}


class ContentState(NamedTuple):
    """Length of a content in bytes, and a number that changes when the content does."""

    length: int
    version: int


def use_content(path: str, use: Callable[[bytes], Result]) -> Result:
    """Return what `use` makes of the bytes of the image with the address `path`.

    Where the copy on this node is damaged, they are those of the dataset: where `use` raises ValueError, and for a JPEG
    without an end mark, of which a decoder returns pixels although the copy may be cut off.

    Raises:
        OSError, DataError: see `read_content`.
        ValueError: raised by `use` for the bytes of the dataset.
    """
    content = read_content(path)
    if copies.are_read():
        with contextlib.suppress(ValueError):
            if not lacks_end_mark(content):
                return use(content)
        content = read_content(path, from_copy=False)
    return use(content)


def read_content(path: str, *, from_copy: bool = True) -> bytes:
    """Return the bytes of the image with the address `path`.

    Args:
        from_copy: read the copy on this node if there is one. A packed set decides by its CRC.

    Raises:
        OSError: they cannot be read, or are damaged; its `filename` is `path`.
        DataError: it is in an archive that is refused.
        HpcYoloError: this process or machine has reached a limit, which says nothing of the image.
    """
    try:
        if PARTS.search(path):
            if (member := _packed_member(path)) is not None:
                return member[0].read_member(*member[1:])
            if (place := member_of(path)) is not None:
                return place[0].read(place[1], from_copy=from_copy)
        return _read_file(path, from_copy=from_copy)
    except OSError as error:
        if error.errno in LIMITS:
            raise HpcYoloError(f"{path}: cannot be read: {error.strerror}", hint=LIMITS[error.errno]) from error
        error.filename = path  # a failed read has none
        raise


def _read_file(path: str, *, from_copy: bool) -> bytes:
    """Return the bytes of the file `path`, from its copy on this node if that can be read."""
    *copied, source = copies.readable_files(path)
    for copy in copied if from_copy else ():
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
