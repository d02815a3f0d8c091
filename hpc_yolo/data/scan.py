"""Scans: a single check of all images and labels of a split.

An image with a problem is left out and reported with file and line; the run continues.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted
from hpc_yolo.data.contents import use_content
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.decode import lacks_end_mark, prepare_decoder
from hpc_yolo.data.files import file_state
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.formats.packed import PackedSplit
from hpc_yolo.data.formats.split import Annotations, SplitReader
from hpc_yolo.data.image_checks import describe_os_error, usable_pixels
from hpc_yolo.data.labels import MAX_PROBLEMS, NO_CROWDS, Crowds, Examples, Findings, ImageIndex
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.scan_cache import cached

CACHE_VERSION = 6
# Errors after which nothing is known of a file: left out of the scan, it would be missing from the cache for everyone.
FILE_SYSTEM_FAILS = frozenset(
    (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN)
)
NUM_THREADS = 8

ONE_CLASS = np.array([0, 1, 1, 1, 1], dtype=np.float32)
ONE_CLASS_OF_CROWDS = np.array([1, 0, 1, 1, 1, 1], dtype=np.float32)


@dataclass(frozen=True)
class _CheckedImage:
    """One image of a scan. `problem` says why it is left out."""

    shape_hw: tuple[int, int] = (0, 0)
    annotations: Annotations = Annotations()  # noqa: RUF009, immutable
    lacks_end_mark: bool = False
    problem: str = ""


def scan_split(
    dataset: Dataset,
    split: str,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    spare_cache: Path | None = None,
    needs_labels: bool = True,
) -> ImageIndex:
    """Read and check all images and labels of `split`, or return what an earlier scan has cached or packed.

    One process scans, others wait for its cache.

    Args:
        on_progress: called with (images done, all images).
        spare_cache: the cache file if none can be written beside the labels.
        needs_labels: refuse a split in which no image has an object.

    Raises:
        DataError: the split is missing or empty, no image is usable, none has labels although they are needed, or the
            file system fails.
    """
    prepare_decoder()
    reader = open_split(dataset, split)
    if isinstance(reader, PackedSplit):
        index, digest = reader.index, reader.index.digest
    else:
        caches = [reader.cache, *([spare_cache] if spare_cache else [])]
        digest = _cache_key(reader, dataset)
        index = cached(caches, digest, lambda: _scan(reader, on_progress))
    if dataset.single_cls:
        labels = replace(index.labels, rows=index.labels.rows * ONE_CLASS)
        index = replace(index, labels=labels, crowds=index.crowds * ONE_CLASS_OF_CROWDS)
    index = _with_problems(index, reader.problems)
    _require_usable(index, reader, f"{dataset.source}: {split}", needs_labels=needs_labels)
    return replace(index, digest=digest, messages=tuple(_messages(index, reader, split)))


def _with_problems(index: ImageIndex, problems: tuple[str, ...]) -> ImageIndex:
    """Return `index` with problems of lists, which are not cached, before those of files."""
    if not problems:
        return index
    own = index.findings.problems
    joined = Examples(len(problems) + own.total, (*problems, *own.first)[:MAX_PROBLEMS])
    findings = replace(index.findings, problems=joined)
    return replace(index, num_corrupt=index.num_corrupt + len(problems), findings=findings)


def _require_usable(index: ImageIndex, reader: SplitReader, where: str, *, needs_labels: bool) -> None:
    if index.num_images == 0:
        first = "\n  ".join(index.findings.problems.first[:5])
        raise DataError(f"{where}: no image is usable, {counted(index.num_corrupt, 'image')} left out\n  {first}")
    if needs_labels and not index.has_labels:
        raise _no_labels(index, reader, where)


def _no_labels(index: ImageIndex, reader: SplitReader, where: str) -> DataError:
    unlabelled = index.findings.unlabelled
    image = Path(unlabelled.first[0] if unlabelled.total else index.paths[0])
    hint = f"the labels of {image} are looked for in {reader.label_file(image)}"
    cause = reader.without_objects
    if unlabelled.total:
        cause = f"{unlabelled.total} without a label file"
        why = reader.explain_missing(image, are_all_missing=unlabelled.total == index.num_images)
        hint += f"; {why}" if why else ""
    return DataError(f"{where}: none of its {index.num_images} images has labels; {cause}", hint=hint)


def _messages(index: ImageIndex, reader: SplitReader, split: str) -> list[str]:
    """Return the findings of a scan and the notes on how images were found, a line each."""
    found = index.findings
    messages = []
    if found.problems.total:
        more = found.problems.total - len(found.problems.first)
        messages += [f"{split}: {counted(found.problems.total, 'image')} left out:", *found.problems.first]
        messages += [f"… and {more} more"] if more else []
    if index.num_backgrounds:
        messages.append(f"{split}: {_background_message(index, reader)}")
    if found.no_end_mark.total:
        messages.append(
            f"{split}: {counted(found.no_end_mark.total, 'JPEG file')} without an end mark, used because all pixels "
            f"are there: {found.no_end_mark}"
        )
    remarks = (*found.remarks.first, *reader.warnings(index), *reader.notes)
    return [*messages, *(f"{split}: {remark}" for remark in remarks)]


def _background_message(index: ImageIndex, reader: SplitReader) -> str:
    unlabelled = index.findings.unlabelled
    counts = f"{index.num_backgrounds} of {counted(index.num_images, 'image')} without objects"
    if not unlabelled.total:
        return f"{counts}: {reader.without_objects}"
    why = reader.explain_missing(Path(unlabelled.first[0]))
    return f"{counts}: {unlabelled.total} without a label file ({unlabelled})" + (f"; {why}" if why else "")


def _scan(reader: SplitReader, on_progress: Callable[[int, int], None]) -> ImageIndex:
    images = reader.images
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        checked = []
        for one in pool.map(lambda image: _check(image, reader), images):
            checked.append(one)
            on_progress(len(checked), len(images))
    usable = [(str(image), one) for image, one in zip(images, checked, strict=True) if not one.problem]
    problems = [one.problem for one in checked if one.problem]
    outlines = Outlines.of([polygon for _, one in usable for polygon in one.annotations.polygons])
    index = ImageIndex(
        paths=FlatPaths.of(image for image, _ in usable),
        shapes_hw=np.array([one.shape_hw for _, one in usable], dtype=np.int32).reshape(-1, 2),
        labels=FlatLabels.of(one.annotations.labels for _, one in usable),
        num_backgrounds=sum(len(one.annotations.labels) == 0 for _, one in usable),
        num_corrupt=len(problems),
        messages=(),
        outlines=Outlines.none(0) if outlines.is_empty else outlines,
        crowds=_crowds([one.annotations for _, one in usable]),
        findings=Findings(
            problems=Examples.of(problems, MAX_PROBLEMS),
            unlabelled=Examples.of([image for image, one in usable if one.annotations.is_missing]),
            no_end_mark=Examples.of([image for image, one in usable if one.lacks_end_mark]),
        ),
    )
    remarks = Examples.of(reader.remarks(index), MAX_PROBLEMS)
    return replace(index, findings=replace(index.findings, remarks=remarks))


def _crowds(annotations: list[Annotations]) -> Crowds:
    """Return the crowds of all images."""
    rows = ((np.full((len(one.crowds), 1), image), one.crowds) for image, one in enumerate(annotations))
    return np.concatenate([NO_CROWDS, *(np.hstack(row) for row in rows if len(row[0]))], dtype=np.float32)


def _check(image: Path, reader: SplitReader) -> _CheckedImage:
    try:
        shape_hw, is_without_end = _image_shape(image)
        return _CheckedImage(shape_hw, reader.read(image), is_without_end)
    except ValueError as error:
        return _CheckedImage(problem=str(error))
    except OSError as error:
        # Those that archives raise for damaged members have a text of their own.
        if error.errno in FILE_SYSTEM_FAILS and error.strerror == os.strerror(error.errno):
            hint = (
                "try again when the file system answers; remove a file that can never be read, or take it off the list"
            )
            raise DataError(describe_os_error(image, error), hint=hint) from error
        return _CheckedImage(problem=describe_os_error(image, error))


def _image_shape(image: Path) -> tuple[tuple[int, int], bool]:
    """Return ((height, width), whether it is a JPEG without an end mark) of an image that can be used.

    Raises:
        OSError: the file cannot be read.
        ValueError: it cannot be decoded completely, or is too small.
    """

    def examine(content: bytes) -> tuple[tuple[int, int], bool]:
        height, width = usable_pixels(image, content).shape[:2]
        return (height, width), lacks_end_mark(content)

    return use_content(str(image), examine)


def _cache_key(reader: SplitReader, dataset: Dataset) -> str:
    """Return a digest of all that a scan depends on: files with their sizes and times, classes, the decoder."""
    rules = CACHE_VERSION, cv2.__version__, dataset.num_file_classes, dataset.kpt_shape
    digest = hashlib.sha256(str(rules).encode())
    for image in reader.images:
        digest.update(file_state(image))
        digest.update(reader.state(image))
    return digest.hexdigest()
