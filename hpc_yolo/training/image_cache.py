"""The caches of decoded images of a node, which the first of its ranks makes and the others open."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted
from hpc_yolo.data.cache_files import (
    FileOfProcess,
    decoded_digest,
    disk_cache,
    disk_directory,
    file_of,
    free_on_disk,
    new_memory_cache,
    opened_cache,
)
from hpc_yolo.data.decoded import DecodedImages, SlotPlan, plan_slots
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.memory import available_bytes
from hpc_yolo.distributed import World
from hpc_yolo.runs.events import AnyEvent, ImagesCached, WarningRaised
from hpc_yolo.spec.train import AUTO_CACHE_FRACTION

CACHE_MEMORY_FRACTION = 0.8  # workers, batches and the page cache need memory too
# The part of the free bytes into which all images must fit; those of `ram` need not.
FRACTIONS = {"auto": AUTO_CACHE_FRACTION, "ram": math.inf, "disk": 0.9}
OFF = "off"
NO_FILE = FileOfProcess(0, 0, 0)

Caches = list[DecodedImages | None]


class _Memory:
    kind = "memory"

    def free_bytes(self) -> int:
        return available_bytes()

    def make(self, _split: int, plan: SlotPlan) -> DecodedImages:
        return new_memory_cache(plan)


class _Disk:
    kind = "disk"

    def __init__(self, digests: list[str]) -> None:
        self._digests = digests
        self._directory: Path | None = None

    def free_bytes(self) -> int:
        """Return the bytes that the caches may take, of which they may have some already.

        Raises:
            DataError, OSError: there is no local disk.
        """
        self._directory = disk_directory(current_environment())
        return free_on_disk(self._directory, self._digests)

    def make(self, split: int, plan: SlotPlan) -> DecodedImages:
        assert self._directory is not None
        return disk_cache(self._directory, self._digests[split], plan)


def node_caches(
    cache: str, indexes: Sequence[ImageIndex], imgsz: int, world: World, emit: Callable[[AnyEvent], None]
) -> Caches:
    """Return the caches of decoded training and validation images, shared by the ranks of this node; None without one.

    With `ram` they may use most of the free memory, and hold the first images where not all fit. With `auto` all must
    fit into a small part of it, with `disk` on a local disk. The node with the least space counts. All ranks must call
    this.
    """
    if cache == "none":
        return [None] * len(indexes)
    digests = [decoded_digest(index, imgsz, augment=split == 0) for split, index in enumerate(indexes)]
    where: _Memory | _Disk = _Disk(digests) if cache == "disk" else _Memory()
    plans = [plan_slots(index.shapes_hw, imgsz) for index in indexes]
    needed_bytes, own_bytes = sum(plan.total_bytes for plan in plans), 0
    try:
        own_bytes = where.free_bytes()
    except (DataError, OSError) as error:
        emit(WarningRaised(message=f"train.cache: {error}"))
    free_bytes = int(min(free for (free,) in world.gather_numbers([float(own_bytes)])))
    caches: Caches = [None] * len(indexes)
    if cache == "ram":
        plans = _plans(indexes, imgsz, int(free_bytes * CACHE_MEMORY_FRACTION))
    if needed_bytes <= free_bytes * FRACTIONS[cache]:
        caches = _shared(plans, where, world, emit)
    emit(
        ImagesCached(
            kind=where.kind if any(caches) else OFF,
            needed_bytes=needed_bytes,
            cached_bytes=sum(each.plan.total_bytes for each in caches if each is not None),
            free_bytes=free_bytes,
        )
    )
    return caches


def _plans(indexes: Sequence[ImageIndex], imgsz: int, limit_bytes: int) -> list[SlotPlan]:
    plans = []
    for index in indexes:
        plan = plan_slots(index.shapes_hw, imgsz, limit_bytes)
        limit_bytes -= plan.total_bytes if plan.num_slots else 0
        plans.append(plan)
    return plans


def _shared(
    plans: Sequence[SlotPlan], where: _Memory | _Disk, world: World, emit: Callable[[AnyEvent], None]
) -> Caches:
    """Return a cache for each of `plans` that has a slot. A rank that cannot have it warns and does without."""
    process, nothing = world.process, [None] * len(plans)
    own: Caches = list(nothing)
    error_number = 0
    try:
        if process.local_rank == 0:
            own = [where.make(split, plan) if plan.num_slots else None for split, plan in enumerate(plans)]
    except (DataError, OSError) as error:
        own, error_number = list(nothing), getattr(error, "errno", None) or errno.EACCES
    files = [NO_FILE if cache is None else file_of(cache) for cache in own]
    rows = world.gather_numbers([process.node_rank, process.local_rank, *(n for file in files for n in astuple(file))])
    try:
        if process.local_rank:
            (row,) = (row[2:] for row in rows if row[:2] == [process.node_rank, 0])
            own = [_opened(list(map(int, row[3 * at : 3 * at + 3])), plan) for at, plan in enumerate(plans)]
    except OSError as error:
        own, error_number = list(nothing), error.errno or errno.EIO
    errors = {rank: int(number) for rank, (number,) in enumerate(world.gather_numbers([error_number])) if number}
    if errors:
        reasons = ", ".join(sorted({os.strerror(number) for number in errors.values()}))
        ranks = f"{counted(len(errors), 'rank')} of {world.size}"
        emit(WarningRaised(message=f"train.cache: {ranks} cannot open the cache of decoded images ({reasons})"))
    return own


def _opened(numbers: list[int], plan: SlotPlan) -> DecodedImages | None:
    file = FileOfProcess(*numbers)
    return None if file == NO_FILE else opened_cache(file, plan)
