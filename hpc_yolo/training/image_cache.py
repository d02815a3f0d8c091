"""The caches of decoded images of a node, which the first of its ranks makes and the others open."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple

from hpc_yolo.core.units import counted
from hpc_yolo.data.cache_files import FileOfProcess, file_of, new_memory_cache, opened_cache
from hpc_yolo.data.decoded import DecodedImages, SlotPlan, plan_slots
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.memory import available_bytes
from hpc_yolo.distributed import World
from hpc_yolo.runs.events import AnyEvent, ImagesCached, WarningRaised

CACHE_MEMORY_FRACTION = 0.8  # workers, batches and the page cache need memory too
AUTO_CACHE_MEMORY_FRACTION = 0.25  # limit of train.cache: auto
MEMORY, OFF = "memory", "off"
NO_FILE = FileOfProcess(0, 0, 0)

Caches = list[DecodedImages | None]


def node_caches(
    cache: str, indexes: Sequence[ImageIndex], imgsz: int, world: World, emit: Callable[[AnyEvent], None]
) -> Caches:
    """Return the cache of the decoded images of each of `indexes`, shared by the ranks of this node; None without one.

    With `ram` they may use most of the free memory, and hold the first images where not all fit. With `auto` all must
    fit into a small part of it. The node with the least free memory counts. All ranks must call this.
    """
    if cache == "none":
        return [None] * len(indexes)
    needed_bytes = sum(plan_slots(index.shapes_hw, imgsz).total_bytes for index in indexes)
    free_bytes = int(min(free for (free,) in world.gather_numbers([float(available_bytes())])))
    caches: Caches = [None] * len(indexes)
    if cache == "ram" or needed_bytes <= free_bytes * AUTO_CACHE_MEMORY_FRACTION:
        plans = _plans(indexes, imgsz, int(free_bytes * CACHE_MEMORY_FRACTION))
        caches = _shared(plans, world, emit)
    emit(
        ImagesCached(
            kind=MEMORY if any(caches) else OFF,
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


def _shared(plans: Sequence[SlotPlan], world: World, emit: Callable[[AnyEvent], None]) -> Caches:
    """Return a cache for each of `plans` that has a slot. A rank that cannot have it warns and does without."""
    process, nothing = world.process, [None] * len(plans)
    own: Caches = list(nothing)
    error_number = 0
    try:
        if process.local_rank == 0:
            own = [new_memory_cache(plan) if plan.num_slots else None for plan in plans]
    except OSError as error:
        own, error_number = list(nothing), error.errno or errno.EIO
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
