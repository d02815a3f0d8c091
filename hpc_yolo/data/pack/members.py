"""The images of a split as members of shards: their names, and their content, read ahead by threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

import cv2
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.contents import ContentState, content_state, read_content
from hpc_yolo.data.decode import decode_image
from hpc_yolo.data.image_suffixes import JPEG_SUFFIXES
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.pack.layout import Options
from hpc_yolo.data.pack.shard import Member

NUM_THREADS = 8
NUM_AHEAD = 2 * NUM_THREADS  # groups that are read before they are written
GROUP_IMAGES, GROUP_BYTES = 16, 4 << 20


@dataclass(frozen=True)
class SplitSource:
    """A split to be packed.

    Attributes:
        index: its usable images.
        base: see `names_base`.
        names: of their members.
        states: of their files before they are packed; see `content_states`.
        options: how they are packed.
    """

    index: ImageIndex
    base: str
    names: tuple[str, ...]
    states: tuple[ContentState, ...]
    options: Options

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the files in bytes."""
        return tuple(state.length for state in self.states)

    def require_unchanged(self) -> None:
        """Check that the files have the states that they had before they were packed.

        Raises:
            DataError: one has not.
        """
        states = zip(self.states, content_states(self.index), strict=True)
        changed = next((image for image, (before, now) in enumerate(states) if before != now), None)
        if changed is not None:
            raise _changed(self.index.paths[changed])

    def is_scaled(self, image: int) -> bool:
        """Return True if an image is larger than `options.size`."""
        return exceeds(self.index.shapes_hw[image].max(), self.options.size)

    def member(self, image: int) -> Member:
        """Return an image as it is packed.

        Raises:
            DataError: it cannot be read, or has changed since its split was scanned.
        """
        path, height, width = self.index.paths[image], *map(int, self.index.shapes_hw[image])
        try:
            content = read_content(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        if len(content) != self.lengths[image]:
            raise _changed(path)
        if not self.is_scaled(image):
            return Member(self.names[image], content, (height, width))
        return scaled(path, self.names[image], content, self.options)

    def members(self, first: int) -> Iterator[Member]:
        """Yield the images from `first` on; threads read, and scale, those that follow."""
        pending: deque[Future[list[Member]]] = deque()
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            try:
                for group in _groups(self.lengths, first):
                    pending.append(pool.submit(lambda images: [self.member(image) for image in images], group))
                    if len(pending) > NUM_AHEAD:
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()


def content_states(index: ImageIndex) -> tuple[ContentState, ...]:
    """Return the state of the file of each image.

    Raises:
        DataError: one cannot be read.
    """
    try:
        return tuple(map(content_state, index.paths))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


def exceeds(longer_side: int, size: int | None) -> bool:
    """Return True if an image is scaled."""
    return size is not None and longer_side > size


def scaled(path: str, name: str, content: bytes, options: Options) -> Member:
    """Return the image `content`, upright, with its longer side at `options.size`, as a JPEG.

    Raises:
        DataError: it cannot be decoded.
    """
    pixels = decode_image(content)
    if pixels is None or options.size is None:
        raise _changed(path, "; it cannot be decoded")
    ratio = options.size / max(pixels.shape[:2])
    height, width = (max(round(side * ratio), 1) for side in pixels.shape[:2])
    smaller = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, options.quality])
    return Member(name, encoded.tobytes(), (height, width))


def names_base(index: ImageIndex, root: Path) -> str:
    """Return the absolute directory below which images have their names: `root`, or the nearest one of all images."""
    base = os.path.abspath(root)  # noqa: PTH100, links are kept, and `..` is not
    paths = [os.path.abspath(path) for path in index.paths]  # noqa: PTH100
    if all(path.startswith(f"{base}/") for path in paths):
        return base
    return os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120, of 100,000 paths


def name_below(base: str, path: str) -> str:
    """Return the name of the image `path` below `base`; the same wherever the dataset is."""
    return os.path.abspath(path)[len(base.rstrip("/")) + 1 :]  # noqa: PTH100


def member_names(index: ImageIndex, base: str, size: int | None) -> tuple[str, ...]:
    """Return the name of each image: its path below `base`.

    Raises:
        DataError: two images would have the same name.
    """
    names = [name_below(base, path) for path in index.paths]
    if size is not None:
        longer = np.asarray(index.shapes_hw).max(axis=1).tolist()
        names = [_jpeg_name(name) if exceeds(side, size) else name for name, side in zip(names, longer, strict=True)]
    seen: dict[str, int] = {}
    for image, name in enumerate(names):
        if (other := seen.setdefault(name, image)) != image:
            raise DataError(
                f"{index.paths[other]} and {index.paths[image]} would both be {name} in the packed set",
                hint="give one of them another name, or list each image once",
            )
    return tuple(names)


def _changed(path: str, seen: str = "") -> DataError:
    return DataError(
        f"{path}: has changed while it was packed{seen}",
        hint="remove the unfinished set, and pack again when nothing writes to the images",
    )


def _jpeg_name(name: str) -> str:
    path = PurePath(name)
    return name if path.suffix.lower() in JPEG_SUFFIXES else str(path.with_suffix(".jpg"))


def _groups(lengths: Sequence[int], first: int) -> Iterator[range]:
    """Yield consecutive images from `first` on, few enough that many groups fit into memory."""
    start, size = first, 0
    for image in range(first, len(lengths)):
        if image > start and (image - start == GROUP_IMAGES or size + lengths[image] > GROUP_BYTES):
            yield range(start, image)
            start, size = image, 0
        size += lengths[image]
    if start < len(lengths):
        yield range(start, len(lengths))
