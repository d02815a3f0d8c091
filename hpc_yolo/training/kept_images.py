"""The images of a run, which stay the same in every attempt although files are damaged or lost meanwhile.

A scan leaves out an image that is damaged. In a running attempt the next one is used for it, and so it must be in a
later attempt: with another number of images, epochs and batches would change. Rank 0 therefore writes the images of an
attempt into the run directory, and a later attempt uses these where its own scan differs by unreadable images alone.
Where the dataset has changed otherwise, the scan is used; a checkpoint refuses another number of training images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted
from hpc_yolo.data.contents import use_content
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.flat import FlatPaths
from hpc_yolo.data.formats.packed import is_packed
from hpc_yolo.data.image_checks import usable_pixels
from hpc_yolo.data.labels import Examples, ImageIndex
from hpc_yolo.data.scan_cache import has_index, read_index, write_index
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, WarningRaised
from hpc_yolo.training.replaced_images import max_damaged

SPLITS = ("train", "val")


def keep_images(
    run: RunDirectory, dataset: Dataset, indexes: Iterable[ImageIndex], emit: Callable[[AnyEvent], None]
) -> None:
    """Write the images of each split for later attempts, unless the run has the same; those of a packed set are fixed.

    Where they cannot be written, a warning is emitted.
    """
    root = f"{dataset.root}/"
    for split, index in zip(SPLITS, indexes, strict=True):
        path = run.kept_images(split)
        if is_packed(dataset, split) or has_index(path, index.digest):
            continue
        try:
            write_index(path, replace(index, paths=FlatPaths.of(image.removeprefix(root) for image in index.paths)))
        except OSError as error:
            reason = f"{path}: cannot be written: {error.strerror}"
            emit(WarningRaised(message=f"{reason}; an image that is damaged later ends the next attempt with an error"))


def with_lost_images(run: RunDirectory, dataset: Dataset, split: str, scanned: ImageIndex, world: World) -> ImageIndex:
    """Return the images of earlier attempts where `scanned` lacks some that cannot be read now, else `scanned`.

    Rank 0 decides for all ranks, which must all call this.

    Raises:
        DataError: this rank cannot read the file that rank 0 has read.
    """
    path = run.kept_images(split)
    kept, lost = None, []
    if world.is_main and not has_index(path, scanned.digest) and (kept := _read_kept(path, dataset)):
        lost = [image for image in _missing(kept, scanned) if _is_unreadable(image)]
        lost = lost if _differ_by(lost, kept, scanned) else []
    num_lost = world.gather_numbers([len(lost)])[0][0]
    if not num_lost:
        return scanned
    kept = kept or _read_kept(path, dataset)
    if kept is None:
        raise DataError(f"{path}: cannot be read, and rank 0 has read it", hint="submit the run again")
    return _with_note(kept, scanned, split)


def _read_kept(path: Path, dataset: Dataset) -> ImageIndex | None:
    """Return the images that an earlier attempt has kept, at the location that the dataset has on this node."""
    kept = read_index(path)
    if kept is None:
        return None
    return replace(kept, paths=FlatPaths.of(os.path.join(dataset.root, image) for image in kept.paths))  # noqa: PTH118


def _missing(kept: ImageIndex, scanned: ImageIndex) -> list[str]:
    """Return the images of `kept` that `scanned` lacks; none where they are more than a run may replace."""
    names = set(scanned.paths)
    missing = [path for path in kept.paths if path not in names]
    return missing if len(missing) <= max_damaged(kept.num_images) else []


def _differ_by(lost: list[str], kept: ImageIndex, scanned: ImageIndex) -> bool:
    """Return True if `scanned` is `kept` without the images `lost`, with the same sizes and labels."""
    names = set(lost)
    stays = np.array([path not in names for path in kept.paths], dtype=bool)
    return (
        [path for path in kept.paths if path not in names] == list(scanned.paths)
        and np.array_equal(kept.shapes_hw[stays], scanned.shapes_hw)
        and np.array_equal(kept.labels.counts[stays], scanned.labels.counts)
        and np.array_equal(kept.labels.rows[np.repeat(stays, kept.labels.counts)], scanned.labels.rows)
    )


def _is_unreadable(image: str) -> bool:
    """Return True if a scan leaves out `image` because of its own content, not of its labels."""
    try:
        use_content(image, lambda content: usable_pixels(Path(image), content))
    except (OSError, ValueError):
        return True
    return False


def _with_note(kept: ImageIndex, scanned: ImageIndex, split: str) -> ImageIndex:
    """Return `kept` with the messages of the scan and one on the images that it lacks, and a digest of both."""
    lost = _missing(kept, scanned)
    note = (
        f"{split}: {counted(len(lost), 'image')} of earlier attempts cannot be read completely now, and the next one "
        f"is used for each: {Examples.of(lost)}"
    )
    digest = hashlib.sha256(os.fsencode("\n".join([scanned.digest, *lost]))).hexdigest()
    return replace(kept, digest=digest, messages=(*scanned.messages, note))
