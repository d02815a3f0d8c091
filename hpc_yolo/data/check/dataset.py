"""The check of a dataset: every image and label of its splits, in threads, with bounded memory.

Decoding and hashing release Python's lock, so that threads use all cores and end with the process.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.check.corrections import Corrections, is_listable
from hpc_yolo.data.check.duplicates import SeenImages
from hpc_yolo.data.check.image import ImageFindings, check_image
from hpc_yolo.data.check.result import CheckResult, FindingLog, Item, SplitTotals
from hpc_yolo.data.check.totals import TotalsOfSplit
from hpc_yolo.data.dataset import SPLITS, Dataset
from hpc_yolo.data.decode import prepare_decoder
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.formats.split import SplitReader

WAITING_PER_THREAD = 16  # images that are handed to threads ahead of time, for each thread
NEEDED_SPLITS = ("train", "val")


class Splits(NamedTuple):
    """The splits to be checked: the readers of those that can be read, and the errors of the others, by name."""

    readers: dict[str, SplitReader]
    unreadable: dict[str, DataError]


def open_splits(dataset: Dataset, names: Sequence[str]) -> Splits:
    """Find the images of the splits `names`.

    Raises:
        DataError: none of them can be read.
    """
    splits = Splits({}, {})
    for name in names:
        try:
            splits.readers[name] = open_split(dataset, name)
        except DataError as error:
            splits.unreadable[name] = error
    if splits.unreadable and not splits.readers:
        raise next(iter(splits.unreadable.values()))
    return splits


def check_dataset(
    dataset: Dataset,
    splits: Splits,
    *,
    imgsz: int,
    num_threads: int = 0,
    corrections: Corrections | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CheckResult:
    """Check every image and label of `splits`.

    Args:
        imgsz: longer side of an image in the training, in pixels.
        num_threads: 0 for one a core.
        corrections: gets all that a corrected copy leaves out and changes.
        on_progress: called with (images done, all images).
    """
    began = time.monotonic()
    prepare_decoder()
    log, corrections = _first_findings(dataset, splits), corrections or Corrections()
    total = sum(len(reader.images) for reader in splits.readers.values())
    seen, totals, done = SeenImages(), {}, 0
    for split, reader in splits.readers.items():
        counted = TotalsOfSplit(len(dataset.names))
        for image, checked in _checked(reader, imgsz, num_threads or len(os.sched_getaffinity(0))):
            counted.add(str(image), checked)
            _record(((kind, split, item) for kind, item in checked.found), log, corrections)
            _remember(seen, split, str(image), checked)
            done += 1
            on_progress(done, total)
        totals[split] = counted.result()
        _log_remarks(split, (*reader.remarks(counted.index()), *reader.notes), log)
        _check_split(dataset, split, reader, totals[split], log)
    _record(seen.findings(), log, corrections)
    return CheckResult(
        dataset=str(dataset.source),
        names=dataset.names,
        imgsz=imgsz,
        splits=totals,
        findings=log.sorted(["", *SPLITS]),
        seconds=time.monotonic() - began,
    )


def _record(found: Iterable[tuple[str, str, Item]], log: FindingLog, corrections: Corrections) -> None:
    for kind, split, item in found:
        log.add(kind, split, item)
        corrections.add(kind, split, item)


def _remember(seen: SeenImages, split: str, image: str, checked: ImageFindings) -> None:
    """Add an image that others may equal, unless it is left out in any case: none is left out in favour of it."""
    if checked.look is not None and checked.has_readable_labels:
        rank = 2 * (not is_listable(image)) + (not checked.has_complete_labels)
        seen.add(split, image, checked.look, checked.labels, rank=rank)


def _first_findings(dataset: Dataset, splits: Splits) -> FindingLog:
    """Return the findings that are known before an image is read."""
    log = FindingLog()
    for message in dataset.messages:
        log.add("remark", "", Item(str(dataset.source), message.removeprefix(f"{dataset.source}: ")))
    for split, error in splits.unreadable.items():
        log.add("split", split, Item(split, str(error)))
    return log


def _log_remarks(split: str, remarks: Iterable[str], log: FindingLog) -> None:
    for remark in remarks:
        log.add("remark", split, Item(split, remark))


def _checked(reader: SplitReader, imgsz: int, num_threads: int) -> Iterator[tuple[Path, ImageFindings]]:
    """Yield the images of a split, in their order, each with its findings."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    waiting: deque[tuple[Path, Future[ImageFindings]]] = deque()
    pool = ThreadPoolExecutor(num_threads)
    try:
        for image in reader.images:
            waiting.append((image, pool.submit(check_image, image, reader, imgsz)))
            if len(waiting) == num_threads * WAITING_PER_THREAD:
                first, future = waiting.popleft()
                yield first, future.result()
        yield from ((image, future.result()) for image, future in waiting)
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(before)


def _check_split(dataset: Dataset, split: str, reader: SplitReader, totals: SplitTotals, log: FindingLog) -> None:
    """Add the findings about a whole split."""
    for problem in reader.problems:
        log.add("unlisted-image", split, Item(split, problem))
    if not totals.num_objects:
        if totals.num_usable and split in NEEDED_SPLITS:
            image = reader.images[0]
            why = reader.explain_missing(image, are_all_missing=True)
            text = f"the labels of {image} are looked for in {reader.label_file(image)}" + (f"; {why}" if why else "")
            log.add("no-labels", split, Item(split, text))
        return
    for name, count in zip(dataset.names, totals.class_counts, strict=True):
        if not count:
            log.add("class-without-objects", split, Item(name))
