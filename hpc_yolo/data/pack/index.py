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
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.copies import open_file
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.labels import Findings, ImageIndex
from hpc_yolo.data.pack.arrays import DTYPES, Array, map_arrays
from hpc_yolo.data.pack.layout import MANIFEST, PACK_AGAIN, index_of_shard, read_manifest
from hpc_yolo.data.polygons import Outlines

FORMS = {  # of each array: data type, and length of each row, None where it has none
    "names": ("U8", None),
    "name_bounds": ("I64", None),
    "by_name": ("I32", None),
    "shard": ("I32", None),
    "offset": ("I64", None),
    "length": ("I64", None),
    "crc32": ("U32", None),
    "shapes_hw": ("I32", 2),
    "labels": ("F32", 5),
    "label_bounds": ("I64", None),
    "points": ("F32", 2),
    "point_counts": ("I64", None),
    "crowds": ("F32", 6),
}
PER_IMAGE = ("by_name", "shard", "offset", "length", "crc32", "shapes_hw")
BOUNDS = {"name_bounds": "names", "label_bounds": "labels"}
VERIFY = "find all damage with: hpc-yolo data verify {}"


class _Values(msgspec.Struct, frozen=True):
    """The values of an index beside its arrays; `shards` are (name, size in bytes)."""

    shards: list[tuple[str, int]]
    num_backgrounds: int
    num_corrupt: int
    findings: Findings


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
        self.arrays, values = map_arrays(path)
        self.num_images = _require_consistent(self.arrays)
        self._values = _values(values)
        self.shards = self._values.shards
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
        file = self._file(shard)
        try:
            return self._content(image, file)
        except OSError:
            if not self._leave_copy(shard, file):
                raise
        return self._content(image, self._file(shard))

    def _content(self, image: int, file: FileIO) -> bytes:
        length = self._columns.length[image]
        content = os.pread(file.fileno(), length, self._columns.offset[image])
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
            num_backgrounds=self._values.num_backgrounds,
            num_corrupt=self._values.num_corrupt,
            messages=(),
            digest=hashlib.sha256(arrays["crc32"].tobytes() + arrays["length"].tobytes()).hexdigest(),
            outlines=Outlines(arrays["points"], arrays["point_counts"]),
            findings=self._values.findings,
        )

    def state(self, image: int) -> tuple[int, int]:
        """Return (length in bytes, CRC-32) of the content of an image."""
        return self._columns.length[image], self._columns.crc32[image]

    def _file(self, shard: int) -> FileIO:
        """Return the open file of a shard.

        Raises:
            OSError: it cannot be opened.
        """
        if shard not in self._files:
            with self._lock:
                if shard not in self._files:
                    self._files[shard] = open_file(self._source(shard))
        return self._files[shard]

    def _leave_copy(self, shard: int, failed: FileIO) -> bool:
        """Read a shard from the set itself from now on; return False if `failed`, which was read, is in the set.

        Raises:
            OSError: the shard of the set cannot be opened.
        """
        source = self._source(shard)
        if failed.name == source:
            return False
        with self._lock:
            if self._files[shard] is failed:  # otherwise another thread has opened the shard of the set
                self._files[shard] = FileIO(source)
                self._left.append(failed)  # stays open: another thread may read it
        return True

    def _source(self, shard: int) -> str:
        return str(self.path.with_name(self.shards[shard][0]))


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
    _require_forms(arrays)
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
    if ((arrays["by_name"] < 0) | (arrays["by_name"] >= num_images)).any():
        wrong = "by_name"
    if wrong is not None:
        raise ValueError(f"its array {wrong} does not fit to the others")
    return num_images


def _require_forms(arrays: dict[str, Array]) -> None:
    """Check that each array is there, with its data type and shape.

    Raises:
        ValueError: one is not.
    """
    for name, (dtype, num_columns) in FORMS.items():
        if name not in arrays:
            raise ValueError(f"it has no array {name!r}")
        found, columns = arrays[name], () if num_columns is None else (num_columns,)
        if found.dtype != DTYPES[dtype] or found.ndim != 1 + len(columns) or found.shape[1:] != columns:
            wanted = ", ".join(map(str, ("N", *columns)))
            raise ValueError(
                f"its array {name} is {found.dtype} {found.shape}, not {np.dtype(DTYPES[dtype])} ({wanted})"
            )


def _values(values: dict[str, Any]) -> _Values:
    """Return the checked values of an index.

    Raises:
        ValueError: one is missing or of another type.
    """
    try:
        found = msgspec.convert(values, _Values)
    except msgspec.ValidationError as error:
        raise ValueError(f"its values are invalid: {error}") from None
    if any(Path(name).name != name for name, _ in found.shards):
        raise ValueError("it lists a shard in another directory")
    return found


def _version(path: Path) -> tuple[int, int, int]:
    """Return values that change when another file is at `path`."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns
