"""Staging before the training: one rank of each node copies while all ranks wait together and rank 0 reports.

It is over before the watchdog starts, and after the ranks have connected, so that neither the limit of the start nor
that of a stall counts it; a node without any progress for as long as a start may take is given up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.units import parse_mem_bytes
from hpc_yolo.data.copies import reading_copies
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.staging.files import files_to_stage
from hpc_yolo.data.staging.node import NodeStaging, StageRequest, StageResult
from hpc_yolo.data.staging.room import is_local
from hpc_yolo.distributed import World
from hpc_yolo.runs.events import AnyEvent, DataStaging, WarningRaised
from hpc_yolo.spec.data import AUTO, OFF, DataSpec

POLL_S = 0.5
FIRST_REPORT_S, MAX_REPORT_S = 2.0, 30.0  # between two events; twice as long each time
SPLITS = ("train", "val")


class RankProgress(NamedTuple):
    """How far a rank is, in numbers that are gathered; a rank that does not stage has nothing to do."""

    is_over: float
    is_staging: float = 0.0
    done_bytes: float = 0.0
    total_bytes: float = 0.0
    copied_bytes: float = 0.0


@contextlib.contextmanager
def staged_images(
    dataset: Dataset, data: DataSpec, world: World, emit: Callable[[AnyEvent], None], start_timeout_s: float
) -> Iterator[None]:
    """Read the images of `dataset` from copies on the nodes within the block, where `data` says so.

    All ranks call it. A node that cannot have a copy reads the dataset where it is, which a warning says.

    Args:
        emit: writes events to the journal; those of other ranks than the first are discarded.
        start_timeout_s: a node is given up after so long without progress.
    """
    if not wants_copies(dataset, data, world):
        yield
        return
    staging = None
    if world.process.local_rank == 0:
        staging = NodeStaging(request_of(dataset, data), current_environment())
        staging.start()
    is_over = False
    try:
        wait_for_nodes(staging, data.stage, world, emit, start_timeout_s)
        result = result_of_node(staging, world, str(dataset.root), emit)
        with reading_copies(result.files):
            yield
        is_over = True
    finally:
        if staging is not None:
            staging.close(is_over=is_over)


def wants_copies(dataset: Dataset, data: DataSpec, world: World) -> bool:
    """Return True if images are to be copied; the same on all ranks.

    Not those of a dataset of which each node has one of its own. With auto only in a Slurm job, and from a file system
    of several machines as rank 0 sees it.
    """
    if data.stage == OFF or dataset.is_on_nodes:
        return False
    wants = data.stage != AUTO or (world.process.launcher == "slurm" and not is_local(dataset.root))
    return bool(world.gather_numbers([wants])[0][0])


def request_of(dataset: Dataset, data: DataSpec) -> StageRequest:
    """Return what each node is to stage."""
    limit_bytes = None if data.size_limit is None else parse_mem_bytes(data.size_limit)
    return StageRequest(data.stage, limit_bytes, str(dataset.root), lambda: files_to_stage(dataset, SPLITS))


def wait_for_nodes(
    staging: NodeStaging | None,
    stage: str,
    world: World,
    emit: Callable[[AnyEvent], None],
    start_timeout_s: float,
) -> None:
    """Wait for the end of the staging on all nodes, and report how far it is.

    Raises:
        BaseException: what the thread of this process has raised by mistake.
    """
    report = StagingReport(stage, emit)
    patience = Patience(start_timeout_s)
    while True:
        if staging is None:
            mine = RankProgress(is_over=1.0)
        else:
            staging.wait(POLL_S)
            if staging.error is not None:
                raise staging.error
            if patience.is_exhausted(staging.progress.num_steps) and staging.result is None:
                staging.give_up(f"nothing was copied for {start_timeout_s:.0f} s (train.start_timeout_s)")
            mine = progress_of(staging)
        rows = [RankProgress(*row) for row in world.gather_numbers(mine)]
        report.add(rows)
        if all(row.is_over for row in rows):
            return


def progress_of(staging: NodeStaging) -> RankProgress:
    """Return how far the staging of this node is."""
    progress, result = staging.progress, staging.result
    if result is not None and not result.files:
        return RankProgress(is_over=1.0)
    return RankProgress(result is not None, 1.0, progress.done_bytes, progress.total_bytes, progress.copied_bytes)


class Patience:
    """Measures how long a count has not changed."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._count = -1
        self._since_s = time.monotonic()

    def is_exhausted(self, count: int) -> bool:
        """Return True if `count` has been the same for longer than the limit."""
        if count != self._count:
            self._count, self._since_s = count, time.monotonic()
        return time.monotonic() - self._since_s > self._limit_s


class StagingReport:
    """Emits events about the progress of all nodes: at first after two seconds, later less often, and the last one."""

    def __init__(self, stage: str, emit: Callable[[AnyEvent], None]) -> None:
        self._stage, self._emit = stage, emit
        self._begin_s = time.monotonic()
        self._interval_s = FIRST_REPORT_S
        self._last: tuple[float, float] = (self._begin_s, 0.0)

    def add(self, rows: Sequence[RankProgress]) -> None:
        """Take in the progress of all ranks."""
        now_s = time.monotonic()
        is_over = all(row.is_over for row in rows)
        last_s, last_bytes = self._last
        if not is_over and now_s - last_s < self._interval_s:
            return
        copied_bytes = sum(row.copied_bytes for row in rows)
        self._emit(
            DataStaging(
                stage=self._stage,
                num_nodes=sum(bool(row.is_staging) for row in rows),
                done_bytes=int(sum(row.done_bytes for row in rows)),
                total_bytes=int(sum(row.total_bytes for row in rows)),
                copied_bytes=int(copied_bytes),
                bytes_per_s=(copied_bytes - last_bytes) / max(now_s - last_s, 1e-3),
                seconds=now_s - self._begin_s,
                is_over=is_over,
            )
        )
        self._last = now_s, copied_bytes
        self._interval_s = min(2 * self._interval_s, MAX_REPORT_S)


def result_of_node(
    staging: NodeStaging | None, world: World, source: str, emit: Callable[[AnyEvent], None]
) -> StageResult:
    """Return the result of this node, and report those of nodes without a copy."""
    own = StageResult() if staging is None or staging.result is None else staging.result
    texts = {name: _bytes_of(getattr(own, name)) for name in ("files", "why_not")}
    results = [
        StageResult(**{name: found[name].tobytes().decode(errors="surrogateescape") for name in texts})
        for found in world.gather_arrays(texts)
    ]
    if world.size == 1:
        found = [(world.process.host or "", own)]
        first = own
    else:
        firsts = [rank for rank in world.ranks if rank.local_rank == 0]
        found = [(rank.host, results[rank.rank]) for rank in firsts]
        first = next(results[rank.rank] for rank in firsts if rank.node_rank == world.process.node_rank)
    for reason in dict.fromkeys(result.why_not for _, result in found if not result.files):
        hosts = [host for host, result in found if not result.files and result.why_not == reason]
        on = f" on {', '.join(hosts)}" if len(found) > 1 else ""
        emit(WarningRaised(message=f"data.stage: images are read from {source}{on}: {reason}"))
    return first


def _bytes_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(errors="surrogateescape"), dtype=np.uint8)
