"""Runs to learn from: that of a spec itself, and others that train a model of the same kind on the same GPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.units import counted
from hpc_yolo.forecast.run_times import RunTimes, run_times
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import CheckpointSaved
from hpc_yolo.runs.journal import read_tail
from hpc_yolo.runs.save_times import SaveTimes, is_state, measured_times
from hpc_yolo.spec.load import load_resolved_spec
from hpc_yolo.spec.schema import ClusterSpec, Spec

TAIL_BYTES = 4 * 2**20  # of a journal: hours of training
MAX_READ = 40  # runs, the newest first
MAX_USED = 3


@dataclass(frozen=True)
class Request:
    """What decides whether the times of another run apply.

    Attributes:
        spec: of the planned run.
        world_size: number of its ranks.
        uses_slurm: it becomes a Slurm job, which may run on other machines than this one.
    """

    spec: Spec
    world_size: int
    uses_slurm: bool


@dataclass(frozen=True)
class Source:
    """A measured run.

    Attributes:
        data: the dataset of its spec.
        differs: what is scaled, since it differs from the planned run; () for a run like it.
        saves: times of its saves and slowest step; None where it has saved nothing.
        last_step: the newest step of it.
        model_bytes: size of a file with the model alone; 0 where it has none.
    """

    run: RunDirectory
    times: RunTimes
    data: str
    differs: tuple[str, ...]
    saves: SaveTimes | None
    last_step: int
    model_bytes: int


def find_sources(
    request: Request, own: RunDirectory, others: Callable[[], Iterable[RunDirectory]], *, max_read: int = MAX_READ
) -> list[Source]:
    """Return the runs to learn from: `own` where it was measured with as many ranks, else the most similar ones.

    Args:
        others: returns the runs to search; called only where `own` is not enough.
        max_read: at most so many runs are read, the newest first.
    """
    mine = read_source(request, own)
    if mine is not None and not mine.differs:
        return [mine]
    found = [] if mine is None else [mine]
    for run in _newest(others(), own)[:max_read]:
        source = read_source(request, run)
        if source is not None:
            found.append(source)
        if sum(not one.differs for one in found) >= MAX_USED:
            break
    alike = [one for one in found if not one.differs]
    return (alike or found)[:MAX_USED]


def read_source(request: Request, run: RunDirectory) -> Source | None:
    """Return what `run` has measured; None where it is no run like the requested one, or has measured nothing."""
    try:
        spec = load_resolved_spec(run.spec)
        if not is_similar(request.spec, spec):
            return None
        start, events = read_tail(run.journal, TAIL_BYTES)
    except (HpcYoloError, OSError):
        return None  # unreadable, of another version, or without a journal
    times = run_times(events, start)
    if times is None or (times.start.launcher == "slurm") != request.uses_slurm:
        return None
    last_step = max((getattr(event, "step", 0) for event in events), default=0)
    saves = measured_times(events, of_another=True)
    models = [event.size_bytes for event in events if isinstance(event, CheckpointSaved) and not is_state(event)]
    return Source(
        run, times, spec.data.described, differences(request, times), saves, last_step, max(models, default=0)
    )


def is_similar(planned: Spec, other: Spec) -> bool:
    """Return whether the speed of `other` says something about `planned`: model, image size, arithmetic, GPU type."""
    return _kind(planned) == _kind(other)


def differences(request: Request, times: RunTimes) -> tuple[str, ...]:
    """Return what has to be scaled from a similar run to the requested one, a clause each."""
    batch, start = request.spec.train.batch, times.start
    found = []
    if start.world_size != request.world_size:
        found.append(f"{counted(start.world_size, 'rank')} instead of {request.world_size}")
    if batch > 0 and batch * start.world_size != start.batch * request.world_size:
        found.append(f"{times.images_per_rank:g} images a rank instead of {batch / request.world_size:g}")
    return tuple(found)


def hardware(cluster: ClusterSpec) -> tuple[str, ...]:
    """Return what a spec says about the machines that it needs: CPUs of a task, or the type of GPU.

    Where neither a type nor a constraint is set, the partitions stand for it.
    """
    if not cluster.gpus_per_node:
        return ("cpu", str(cluster.cpus_per_task))
    gpu_type = cluster.gpu_type or cluster.gpu
    if gpu_type is not None or cluster.constraint is not None:
        return ("gpu", gpu_type or "", cluster.constraint or "")
    return ("partition", *cluster.partitions)


def _kind(spec: Spec) -> tuple[object, ...]:
    train = spec.train
    return (
        *(Path(spec.model_source).stem, train.imgsz, train.multi_scale, train.rect, train.precision, train.freeze),
        *(train.sync_bn, train.data_parallel, train.device == "cpu", hardware(spec.cluster)),
    )


def _newest(runs: Iterable[RunDirectory], own: RunDirectory) -> Sequence[RunDirectory]:
    """Return `runs` without `own`, the one whose journal has changed last first."""
    by_path: dict[Path, float] = {}
    for run in runs:
        with contextlib.suppress(OSError):
            by_path[run.path.resolve()] = run.journal.stat().st_mtime
    by_path.pop(own.path.resolve(), None)
    return [RunDirectory(path) for path in sorted(by_path, key=lambda path: by_path[path], reverse=True)]
