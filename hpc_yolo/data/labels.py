"""Labels of a split, checked once and kept in a cache: what is wrong with a picture leaves it out, with a warning that
names file and line, and the run goes on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.dataset import Dataset, label_path, list_images
from hpc_yolo.data.polygons import Outlines, Points
from hpc_yolo.errors import DataError
from hpc_yolo.fileio import exclusive_lock, write_atomic

CACHE_VERSION = 2
MIN_SIDE_PIXELS = 10
END_OF_JPEG = b"\xff\xd9"
JPEG_TAIL_BYTES = 4096  # cameras append notes after the end mark
MAX_MESSAGES = 20
SCAN_THREADS = 8

ONE_CLASS = np.array([0, 1, 1, 1, 1], dtype=np.float32)
NO_POLYGON = np.zeros((0, 2), dtype=np.float32)

Labels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageIndex:
    """The usable pictures of a split.

    `shapes_hw` (N, 2) height and width in pixels, as turned by EXIF. `labels`: (n, 5) for each picture: class, cxcywh
    in [0, 1]. `messages` says what was left out. `outlines`: of all objects, picture after picture; of no objects
    where no label is a polygon.
    """

    paths: tuple[str, ...]
    shapes_hw: npt.NDArray[np.int32]
    labels: tuple[Labels, ...]
    num_backgrounds: int
    num_corrupt: int
    messages: tuple[str, ...]
    outlines: Outlines = Outlines.none(0)  # noqa: RUF009, frozen

    @property
    def num_images(self) -> int:
        return len(self.paths)

    @cached_property
    def _bounds(self) -> npt.NDArray[np.int64]:
        """(N + 1,): picture number i has the objects from bounds[i] to bounds[i + 1]."""
        return np.cumsum([0, *map(len, self.labels)])

    def outlines_of(self, image: int) -> Outlines:
        """The outlines of one picture's objects, in shares of the picture."""
        if self.outlines.is_empty:
            return Outlines.none(len(self.labels[image]))
        return self.outlines.part(self._bounds[image], self._bounds[image + 1])


@dataclass(frozen=True)
class _Checked:
    shape_hw: tuple[int, int]
    labels: Labels
    polygons: list[Points]
    problem: str = ""


def scan_split(
    dataset: Dataset,
    split: str,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    spare_cache: Path | None = None,
) -> ImageIndex:
    """Read and check all pictures and labels of `split`, or take what an earlier scan left.

    One process scans, others wait for its cache.

    Args:
        on_progress: told (pictures done, all pictures).
        spare_cache: the file that holds the cache if none can be written beside the labels.

    Raises:
        DataError: the split is empty, nothing in it is usable, or a training split has no label at all.
    """
    if not dataset.split(split):
        raise DataError(f"{dataset.source}: there is no split {split}")
    images = list_images(dataset.split(split))
    caches = [_cache_path(dataset.split(split), images[0]), *([spare_cache] if spare_cache else [])]
    key = _cache_key(images, dataset.num_file_classes)
    index = _cached(caches, key, lambda: _scan(images, dataset, on_progress))
    if dataset.single_cls:
        index = replace(index, labels=tuple(rows * ONE_CLASS for rows in index.labels))
    return _require_usable(index, dataset, split)


def _cached(caches: list[Path], key: str, scan: Callable[[], ImageIndex]) -> ImageIndex:
    """What one of the caches holds, or else a scan, left in the first of them that can be locked and written."""
    index = None
    for cache in caches:
        with contextlib.suppress(OSError), exclusive_lock(cache.with_suffix(".lock")):
            if index is None and (found := _read_caches(caches, key)):
                return found
            index = index or scan()
            write_atomic(cache, _pack(index, key), mode=0o644)
            return index
    return index or _read_caches(caches, key) or scan()


def _require_usable(index: ImageIndex, dataset: Dataset, split: str) -> ImageIndex:
    if index.num_images == 0:
        first = "\n  ".join(index.messages[:5])
        raise DataError(f"{dataset.source}: {split}: none of its {index.num_corrupt} pictures is usable\n  {first}")
    if split == "train" and index.num_backgrounds == index.num_images:
        expected = label_path(Path(index.paths[0]))
        raise DataError(
            f"{dataset.source}: train: none of its {index.num_images} pictures has labels",
            hint=f"the labels of {index.paths[0]} are looked for in {expected}",
        )
    return index


def _scan(images: list[Path], dataset: Dataset, on_progress: Callable[[int, int], None]) -> ImageIndex:
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        checked = []
        for one in pool.map(lambda image: _check(image, dataset.num_file_classes), images):
            checked.append(one)
            on_progress(len(checked), len(images))
    usable = [(image, one) for image, one in zip(images, checked, strict=True) if not one.problem]
    problems = [one.problem for one in checked if one.problem]
    outlines = Outlines.of([polygon for _, one in usable for polygon in one.polygons])
    return ImageIndex(
        paths=tuple(str(image) for image, _ in usable),
        shapes_hw=np.array([one.shape_hw for _, one in usable], dtype=np.int32).reshape(-1, 2),
        labels=tuple(one.labels for _, one in usable),
        num_backgrounds=sum(len(one.labels) == 0 for _, one in usable),
        num_corrupt=len(problems),
        messages=tuple(_summary(problems)),
        outlines=Outlines.none(0) if outlines.is_empty else outlines,
    )


def _summary(problems: list[str]) -> list[str]:
    if not problems:
        return []
    more = [f"… and {len(problems) - MAX_MESSAGES} more"] if len(problems) > MAX_MESSAGES else []
    return [f"{len(problems)} pictures are left out:", *problems[:MAX_MESSAGES], *more]


def _check(image: Path, num_classes: int) -> _Checked:
    nothing = np.zeros((0, 5), dtype=np.float32)
    try:
        shape = _image_shape(image)
        return _Checked(shape, *read_labels(label_path(image), num_classes))
    except (ValueError, OSError) as error:
        return _Checked((0, 0), nothing, [], problem=str(error))


def _image_shape(image: Path) -> tuple[int, int]:
    """(height, width) of a picture that can be decoded whole.

    Raises:
        ValueError: it cannot, or is too small.
    """
    content = image.read_bytes()
    if image.suffix.lower() in (".jpg", ".jpeg") and END_OF_JPEG not in content[-JPEG_TAIL_BYTES:]:
        raise ValueError(f"{image}: the JPEG is cut off (no end mark in {len(content)} bytes)")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # nothing in it, or more pixels than OpenCV allows
        pixels = None
    if pixels is None:
        raise ValueError(f"{image}: cannot be decoded ({len(content)} bytes)")
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE_PIXELS:
        raise ValueError(f"{image}: {width} x {height} pixels; at least {MIN_SIDE_PIXELS} on each side are needed")
    return height, width


def read_labels(path: Path, num_classes: int) -> tuple[Labels, list[Points]]:
    """(rows (n, 5) of class, cxcywh in [0, 1], a polygon for each) of a label file, each row once.

    A line has a class and a box of four numbers, or a class and a polygon of at least three points, whose bounding
    box is the row; both may stand in one file. A box has a polygon of no points. No file is a picture without objects.

    Raises:
        ValueError: naming file, line, what was seen and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        text = ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text (byte {error.start})") from error
    objects: dict[tuple[float, ...], Points] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            objects.setdefault(*_parse_line(f"{path}:{number}", line, num_classes))
    return np.array(list(objects), dtype=np.float32).reshape(-1, 5), list(objects.values())


def _parse_line(place: str, line: str, num_classes: int) -> tuple[tuple[float, ...], Points]:
    """((class, cx, cy, w, h), polygon (k, 2))."""
    words = line.split()
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise ValueError(f"{place}: {len(words)} columns; 5 are needed (class, cx, cy, w, h), or a class and a polygon")
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{place}: {line.strip()[:60]!r} holds something that is not a number") from None
    class_index, numbers = values[0], values[1:]
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{place}: {line.strip()[:60]!r} holds a number that is not finite")
    if class_index != int(class_index) or not 0 <= class_index < num_classes:
        raise ValueError(f"{place}: class {words[0]}; the {num_classes} classes are 0 to {num_classes - 1}")
    for number in numbers:
        if not 0 <= number <= 1:
            raise ValueError(f"{place}: coordinate {number:g}; coordinates are shares of the picture, 0 to 1")
    if len(numbers) == 4:
        return tuple(values), NO_POLYGON
    xs, ys = numbers[0::2], numbers[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    row = class_index, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    return row, np.array(numbers, dtype=np.float32).reshape(-1, 2)


def _cache_path(split: tuple[Path, ...], first_image: Path) -> Path:
    folder = label_path(first_image).parent
    name = split[0].stem if split[0].is_file() else folder.name
    if len(split) > 1:  # a split that has the first part alone has a cache of its own
        name += "-" + hashlib.sha256(os.fsencode("\n".join(map(str, split)))).hexdigest()[:8]
    return folder.parent / f".{name}.hpc-yolo.npz"


def _cache_key(images: list[Path], num_classes: int) -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION} {num_classes}".encode())
    for path in _with_labels(images):
        try:
            found = path.stat()
            digest.update(os.fsencode(f"\n{path} {found.st_size} {found.st_mtime_ns}"))
        except OSError:
            digest.update(os.fsencode(f"\n{path} none"))
    return digest.hexdigest()


def _with_labels(images: list[Path]) -> Iterator[Path]:
    for image in images:
        yield image
        yield label_path(image)


def _pack(index: ImageIndex, key: str) -> bytes:
    header = {
        "key": key,
        "paths": index.paths,
        "num_backgrounds": index.num_backgrounds,
        "num_corrupt": index.num_corrupt,
        "messages": index.messages,
    }
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        allow_pickle=False,
        header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        shapes_hw=index.shapes_hw,
        counts=np.array([len(rows) for rows in index.labels], dtype=np.int64),
        labels=np.concatenate([np.zeros((0, 5), dtype=np.float32), *index.labels]),
        points=index.outlines.points,
        point_counts=index.outlines.counts,
    )
    return packed.getvalue()


def _read_caches(caches: list[Path], key: str) -> ImageIndex | None:
    return next((found for cache in caches if (found := _read_cache(cache, key))), None)


def _read_cache(path: Path, key: str) -> ImageIndex | None:
    """What an earlier scan of the same files left; None where there is nothing, or nothing that can be trusted."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["key"] != key:
                return None
            ends = arrays["counts"].cumsum()[:-1]
            return ImageIndex(
                paths=tuple(header["paths"]),
                shapes_hw=arrays["shapes_hw"],
                labels=tuple(np.split(arrays["labels"], ends)) if header["paths"] else (),
                num_backgrounds=header["num_backgrounds"],
                num_corrupt=header["num_corrupt"],
                messages=tuple(header["messages"]),
                outlines=Outlines(arrays["points"], arrays["point_counts"]),
            )
    except Exception:  # zip, zlib, numpy and json each have their own; whatever is wrong, a scan makes a new one
        return None
