"""The index of a split of a packed set: where each image is, and its labels.

Arrays of a file of N images with M objects and P points (see `arrays`):

    names (bytes), name_bounds (N + 1)     image i is the member names[name_bounds[i]:name_bounds[i + 1]] of its shard
    by_name (N)                            images in ascending order of the bytes of their names
    shard, offset, length, crc32 (N)       its content: number of the shard, bytes in it, CRC-32
    shapes_hw (N, 2)                       height and width in pixels, after EXIF rotation
    labels (M, 5), label_bounds (N + 1)    class, cxcywh in [0, 1]; image i within its bounds, as its name
    points (P, 2), point_counts (M)        polygons in [0, 1], object after object; no points where it has only a box
    crowds (C, 6)                          image, class, cxcywh in [0, 1] of regions of many objects

Values: shards ([name, size]), num_backgrounds, num_corrupt, findings of the scan.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import threading
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.copies import open_file
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.labels import Findings, ImageIndex
from hpc_yolo.data.pack.arrays import Array, map_arrays
from hpc_yolo.data.pack.layout import MANIFEST, PACK_AGAIN, index_of_shard, read_manifest
from hpc_yolo.data.polygons import Outlines

PER_IMAGE = ("by_name", "shard", "offset", "length", "crc32", "shapes_hw")
BOUNDS = {"name_bounds": "names", "label_bounds": "labels"}
VERIFY = "find all damage with: hpc-yolo data verify {}"


class _Columns(NamedTuple):
    """Views of the arrays by which images are found and read."""

    names: memoryview
    name_bounds: memoryview
    by_name: memoryview
    shard: memoryview
    offset: memoryview
    length: memoryview
    crc32: memoryview


class SplitIndex:
    """An index, mapped into memory, and its shards, each opened at its first use.

    Reads have no position that processes could share, so that forked workers use the same open files.
    """

    def __init__(self, path: Path) -> None:
        """Map the index at `path`.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
        """
        self.path, self.version = path, _version(path)
        self.arrays, self.meta = map_arrays(path)
        self.num_images = _require_consistent(self.arrays)
        self.shards: list[tuple[str, int]] = [(str(name), int(size)) for name, size in self.meta["shards"]]
        if self.num_images and not 0 <= self.arrays["shard"].min() <= self.arrays["shard"].max() < len(self.shards):
            raise ValueError("it has an image in a shard that it does not list")
        # Elements of a memoryview are read five times as fast as those of an array.
        self._columns = _Columns(*(self.arrays[name].data for name in _Columns._fields))
        self._files: dict[int, FileIO] = {}
        self._left: list[FileIO] = []
        self._lock = threading.Lock()

    def name(self, image: int) -> bytes:
        """Return the member name of an image."""
        bounds = self._columns.name_bounds
        return self._columns.names[bounds[image] : bounds[image + 1]].tobytes()

    def find(self, name: bytes) -> int:
        """Return the image with the member name `name`; -1 if there is none."""
        order = self._columns.by_name
        found = bisect_left(order, name, key=self.name)
        return order[found] if found < len(order) and self.name(order[found]) == name else -1

    def find_member(self, shard: int, name: str) -> int:
        """Return the image that is the member `name` of a shard.

        Raises:
            FileNotFoundError: there is none.
        """
        image = self.find(os.fsencode(name))
        if image < 0 or self._columns.shard[image] != shard:
            raise FileNotFoundError(errno.ENOENT, f"is not in {self.path}")
        return image

    def read_member(self, shard: int, name: str) -> bytes:
        """Return the content of the member `name` of a shard; see `find_member`, `read`."""
        return self.read(self.find_member(shard, name))

    def read(self, image: int) -> bytes:
        """Return the content of an image.

        Raises:
            OSError: it cannot be read, or is damaged.
        """
        shard = self._columns.shard[image]
        try:
            return self._content(image, self._file(shard))
        except OSError:
            if not self._leave_copy(shard):
                raise
        return self._content(image, self._file(shard))

    def _content(self, image: int, descriptor: int) -> bytes:
        length = self._columns.length[image]
        content = os.pread(descriptor, length, self._columns.offset[image])
        if len(content) != length:
            raise OSError(errno.EIO, f"its shard is cut off; {VERIFY.format(self.path.parent)}")
        if zlib.crc32(content) != self._columns.crc32[image]:
            raise OSError(errno.EIO, f"is damaged: not the CRC of the index; {VERIFY.format(self.path.parent)}")
        return content

    def _addresses(self) -> Iterator[str]:
        """Yield the address of each image: the path of its shard, then its member name."""
        starts = [os.fsencode(self.path.with_name(name)) + b"/" for name, _ in self.shards]
        names, bounds = self.arrays["names"].tobytes(), self.arrays["name_bounds"].tolist()
        for image, shard in enumerate(self.arrays["shard"].tolist()):
            yield os.fsdecode(starts[shard] + names[bounds[image] : bounds[image + 1]])

    def image_index(self) -> ImageIndex:
        """Return the images of the split with their labels, as a scan of the packed dataset returned them."""
        arrays = self.arrays
        return ImageIndex(
            paths=FlatPaths.of(self._addresses()),
            shapes_hw=arrays["shapes_hw"],
            labels=FlatLabels(arrays["labels"], arrays["label_bounds"]),
            crowds=arrays["crowds"],
            num_backgrounds=int(self.meta["num_backgrounds"]),
            num_corrupt=int(self.meta["num_corrupt"]),
            messages=(),
            digest=hashlib.sha256(arrays["crc32"].tobytes() + arrays["length"].tobytes()).hexdigest(),
            outlines=Outlines(arrays["points"], arrays["point_counts"]),
            findings=Findings.from_json(self.meta["findings"]),
        )

    def state(self, image: int) -> tuple[int, int]:
        """Return (length in bytes, CRC-32) of the content of an image."""
        return self._columns.length[image], self._columns.crc32[image]

    def _file(self, shard: int) -> int:
        """Return the descriptor of a shard."""
        if shard not in self._files:
            with self._lock:
                if shard not in self._files:
                    self._files[shard] = open_file(str(self.path.with_name(self.shards[shard][0])))
        return self._files[shard].fileno()

    def _leave_copy(self, shard: int) -> bool:
        """Read a shard from the set itself from now on; return False if it is."""
        source = str(self.path.with_name(self.shards[shard][0]))
        with self._lock:
            if self._files[shard].name != source:
                self._left.append(self._files[shard])  # stays open: another thread may read it
                self._files[shard] = FileIO(source)
                return True
        return False


_opened: dict[Path, SplitIndex] = {}


def open_index(path: Path) -> SplitIndex:
    """Return the index at `path`, checked against the manifest beside it; a further call returns the same object.

    Raises:
        DataError: it or a shard is missing, damaged or cut off.
    """
    found = _opened.get(path)
    if found is None or found.version != _version(path):
        _require_intact(path)
        found = _opened[path] = _mapped(path)
        _require_shards(found)
    return found


def shard_index(shard: str) -> tuple[SplitIndex, int] | None:
    """Return (the index of a shard, the shard's number in it); None where `shard` is none: it has no index beside it.

    Raises:
        OSError: the index cannot be read, or is damaged.
    """
    place = _place(shard)
    if place is None:
        return None
    path, number = place
    found = _opened.get(path)
    if found is None:
        if not path.is_file():
            return None
        try:
            found = _opened.setdefault(path, SplitIndex(path))
        except ValueError as error:
            raise OSError(errno.EIO, f"the index {path} is damaged: {error}") from None
    return found, number


@functools.lru_cache(maxsize=4096)
def _place(shard: str) -> tuple[Path, int] | None:
    return index_of_shard(Path(shard))


def _mapped(path: Path) -> SplitIndex:
    try:
        return SplitIndex(path)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be used: {cause}", hint=PACK_AGAIN) from error


def _require_intact(path: Path) -> None:
    listed = read_manifest(path.parent).files.get(path.name)
    if listed is None:
        raise DataError(f"{path}: is not a file of the packed set in {path.parent}, see its {MANIFEST}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint=PACK_AGAIN) from error
    if len(content) != listed.size:
        raise DataError(f"{path}: has {len(content)} of {listed.size} bytes", hint=PACK_AGAIN)
    if zlib.crc32(content) != listed.crc32:
        raise DataError(f"{path}: is damaged: its CRC is not that in {MANIFEST}", hint=PACK_AGAIN)


def _require_shards(index: SplitIndex) -> None:
    hint = f"copy it again from where the set was packed; {VERIFY.format(index.path.parent)}"
    for name, size in index.shards:
        path = index.path.with_name(name)
        try:
            found = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: a shard of {index.path} cannot be read: {error.strerror}", hint=hint) from error
        if found != size:
            raise DataError(f"{path}: has {found} of {size} bytes", hint=hint)


def _require_consistent(arrays: dict[str, Array]) -> int:
    """Return the number of images, after a check that arrays fit to each other.

    Raises:
        ValueError: they do not.
    """
    try:
        num_images, num_objects = len(arrays["shard"]), len(arrays["labels"])
        lengths = {name: len(arrays[name]) for name in PER_IMAGE} | {"label_bounds": len(arrays["label_bounds"]) - 1}
        wrong = next((name for name, length in lengths.items() if length != num_images), None)
        for name, of in BOUNDS.items():
            bounds = arrays[name]
            fits = len(bounds) == num_images + 1 and bounds[0] == 0 and bounds[-1] == len(arrays[of])
            if not fits or (np.diff(bounds) < 0).any():
                wrong = name
        if len(arrays["point_counts"]) not in (0, num_objects) or arrays["point_counts"].sum() != len(arrays["points"]):
            wrong = "point_counts"
        if arrays["crowds"].shape[1:] != (6,):
            wrong = "crowds"
    except KeyError as error:
        raise ValueError(f"it has no array {error}") from None
    if wrong is not None:
        raise ValueError(f"its array {wrong} does not fit to the others")
    return num_images


def _version(path: Path) -> tuple[int, int, int]:
    """Return values that change when another file is at `path`."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns
