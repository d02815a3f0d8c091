"""Checking all images and labels of a split once: what is wrong with an image leaves it out, with a message that names
file and line, and the run goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.decode import decode_image, describe_content, is_cut_off, lacks_end_mark, silence_decoder
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.label_files import NearMisses, describe_os_error, explain_missing, label_path
from hpc_yolo.data.label_rows import Labels, keypoints_in_polygons, read_labels
from hpc_yolo.data.labels import MAX_PROBLEMS, Examples, Findings, ImageIndex
from hpc_yolo.data.polygons import Outlines, Points
from hpc_yolo.data.scan_cache import cache_path, cached

CACHE_VERSION = 3
MIN_SIDE_PIXELS = 10
SCAN_THREADS = 8

ONE_CLASS = np.array([0, 1, 1, 1, 1], dtype=np.float32)
NO_LABELS = np.zeros((0, 5), dtype=np.float32)


@dataclass(frozen=True)
class _Checked:
    """One image. `problem` says why it is left out."""

    shape_hw: tuple[int, int] = (0, 0)
    labels: Labels = field(default_factory=lambda: NO_LABELS)
    polygons: tuple[Points, ...] = ()
    problem: str = ""
    lacks_label_file: bool = False
    lacks_end_mark: bool = False


def scan_split(
    dataset: Dataset,
    split: str,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    spare_cache: Path | None = None,
    needs_labels: bool = True,
) -> ImageIndex:
    """Read and check all images and labels of `split`, or take what an earlier scan left.

    One process scans, others wait for its cache.

    Args:
        on_progress: called with (images done, all images).
        spare_cache: the file that holds the cache if none can be written beside the labels.
        needs_labels: refuse a split in which no image has an object.

    Raises:
        DataError: the split is empty, nothing in it is usable, or it has no label although they are needed.
    """
    if not dataset.split(split):
        raise DataError(f"{dataset.source}: there is no split {split}")
    silence_decoder()
    found = find_images(dataset.split(split), dataset.root)
    images = found.paths
    labels = [label_path(image) for image in images]
    near_misses = NearMisses(labels)
    caches = [cache_path(dataset.split(split), images[0]), *([spare_cache] if spare_cache else [])]
    key = _cache_key(images, labels, near_misses, dataset)
    index = cached(caches, key, lambda: _scan(images, labels, near_misses, dataset, on_progress))
    if dataset.single_cls:
        index = replace(index, labels=tuple(rows * ONE_CLASS for rows in index.labels))
    index = _with_problems(index, found.problems)
    _require_usable(index, dataset, split, needs_labels=needs_labels)
    return replace(index, messages=(*_messages(index, split), *(f"{split}: {note}" for note in found.notes)))


def _with_problems(index: ImageIndex, problems: tuple[str, ...]) -> ImageIndex:
    """Return `index` with problems of lists, which no cache holds, before those of files."""
    if not problems:
        return index
    own = index.findings.problems
    joined = Examples(len(problems) + own.total, (*problems, *own.first)[:MAX_PROBLEMS])
    findings = replace(index.findings, problems=joined)
    return replace(index, num_corrupt=index.num_corrupt + len(problems), findings=findings)


def _require_usable(index: ImageIndex, dataset: Dataset, split: str, *, needs_labels: bool) -> None:
    where = f"{dataset.source}: {split}"
    if index.num_images == 0:
        first = "\n  ".join(index.findings.problems.first[:5])
        raise DataError(f"{where}: no image is usable, {counted(index.num_corrupt, 'image')} left out\n  {first}")
    if needs_labels and not index.has_labels:
        raise _no_labels(index, where)


def _no_labels(index: ImageIndex, where: str) -> DataError:
    unlabelled = index.findings.unlabelled
    image = Path((unlabelled.first or index.paths)[0])
    hint = f"the labels of {image} are looked for in {label_path(image)}"
    cause = "their label files are empty"
    if unlabelled.total:
        cause = f"{unlabelled.total} without a label file"
        why = explain_missing(image, are_all_missing=unlabelled.total == index.num_images)
        hint += f"; {why}" if why else ""
    return DataError(f"{where}: none of its {index.num_images} images has labels; {cause}", hint=hint)


def _messages(index: ImageIndex, split: str) -> list[str]:
    """Return what a person should know of a split, a line each."""
    found = index.findings
    messages = []
    if found.problems.total:
        more = found.problems.total - len(found.problems.first)
        messages += [f"{split}: {counted(found.problems.total, 'image')} left out:", *found.problems.first]
        messages += [f"… and {more} more"] if more else []
    if index.num_backgrounds:
        messages.append(f"{split}: {_background_message(index)}")
    if found.no_end_mark.total:
        messages.append(
            f"{split}: {counted(found.no_end_mark.total, 'JPEG file')} without an end mark, used because all pixels "
            f"are there: {found.no_end_mark}"
        )
    if num_keypoints := keypoints_in_polygons(index.outlines):
        image = next(path for path, rows in zip(index.paths, index.labels, strict=True) if len(rows))
        messages.append(
            f"{split}: each polygon looks like a box and {counted(num_keypoints, 'keypoint')}, see "
            f"{label_path(Path(image))}; if it is, write kpt_shape: [{num_keypoints}, 2] into the dataset YAML"
        )
    return messages


def _background_message(index: ImageIndex) -> str:
    unlabelled = index.findings.unlabelled
    counts = f"{index.num_backgrounds} of {counted(index.num_images, 'image')} without objects"
    if not unlabelled.total:
        return f"{counts}: their label files are empty"
    image = Path(unlabelled.first[0])
    why = explain_missing(image)
    return f"{counts}: {unlabelled.total} without a label file ({unlabelled})" + (f"; {why}" if why else "")


def _scan(
    images: Sequence[Path],
    labels: list[Path],
    near_misses: NearMisses,
    dataset: Dataset,
    on_progress: Callable[[int, int], None],
) -> ImageIndex:
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        checked = []
        for one in pool.map(lambda image, label: _check(image, label, near_misses, dataset), images, labels):
            checked.append(one)
            on_progress(len(checked), len(images))
    usable = [(str(image), one) for image, one in zip(images, checked, strict=True) if not one.problem]
    problems = [one.problem for one in checked if one.problem]
    outlines = Outlines.of([polygon for _, one in usable for polygon in one.polygons])
    return ImageIndex(
        paths=tuple(image for image, _ in usable),
        shapes_hw=np.array([one.shape_hw for _, one in usable], dtype=np.int32).reshape(-1, 2),
        labels=tuple(one.labels for _, one in usable),
        num_backgrounds=sum(len(one.labels) == 0 for _, one in usable),
        num_corrupt=len(problems),
        messages=(),
        outlines=Outlines.none(0) if outlines.is_empty else outlines,
        findings=Findings(
            problems=Examples.of(problems, MAX_PROBLEMS),
            unlabelled=Examples.of([image for image, one in usable if one.lacks_label_file]),
            no_end_mark=Examples.of([image for image, one in usable if one.lacks_end_mark]),
        ),
    )


def _check(image: Path, label: Path, near_misses: NearMisses, dataset: Dataset) -> _Checked:
    try:
        shape_hw, is_without_end = _image_shape(image)
        try:
            rows, polygons = read_labels(label, dataset.num_file_classes, dataset.kpt_shape)
        except FileNotFoundError:
            if label.is_symlink():
                raise
            if (near := near_misses.find(image, label)) is not None:
                raise ValueError(
                    f"{near}: is not read; the label file of {image} must be called {label.name}"
                ) from None
            return _Checked(shape_hw, lacks_label_file=True, lacks_end_mark=is_without_end)
    except ValueError as error:
        return _Checked(problem=str(error))
    except OSError as error:
        return _Checked(problem=describe_os_error(Path(error.filename), error))
    return _Checked(shape_hw, rows, tuple(polygons), lacks_end_mark=is_without_end)


def _image_shape(image: Path) -> tuple[tuple[int, int], bool]:
    """Return ((height, width), whether it is a JPEG without an end mark) of an image that can be decoded whole.

    Raises:
        OSError: the file cannot be read.
        ValueError: it cannot be decoded whole, or is too small.
    """
    content = image.read_bytes()
    pixels = decode_image(content)
    if pixels is None:
        raise ValueError(f"{image}: cannot be decoded: {describe_content(content)}")
    is_without_end = lacks_end_mark(content)
    if is_without_end and is_cut_off(content, pixels):
        raise ValueError(f"{image}: the JPEG is cut off (no end mark in {len(content)} bytes)")
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE_PIXELS:
        raise ValueError(f"{image}: {width} x {height} pixels; at least {MIN_SIDE_PIXELS} on each side are needed")
    return (height, width), is_without_end


def _cache_key(images: Sequence[Path], labels: list[Path], near_misses: NearMisses, dataset: Dataset) -> str:
    """Return a digest of all that a scan depends on: files with their sizes and times, classes, the decoder."""
    rules = CACHE_VERSION, cv2.__version__, dataset.num_file_classes, dataset.kpt_shape
    digest = hashlib.sha256(str(rules).encode())
    for image, label in zip(images, labels, strict=True):
        digest.update(_file_state(image))
        digest.update(_file_state(label) or os.fsencode(f"\n{label} none {near_misses.find(image, label)}"))
    return digest.hexdigest()


def _file_state(path: Path) -> bytes:
    """Return what changes when the file does; nothing where there is none."""
    try:
        found = path.stat()
    except OSError:
        return b""
    return os.fsencode(f"\n{path} {found.st_size} {found.st_mtime_ns}")
