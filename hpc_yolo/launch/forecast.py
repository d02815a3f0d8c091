"""What a planned run will take here: measured runs of the user, joined with the dataset and the plan of a job."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from hpc_yolo.cluster import sbatch
from hpc_yolo.core.errors import DataError, RunError
from hpc_yolo.core.units import counted, format_time, parse_limit_s
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.dataset_source import source_of
from hpc_yolo.forecast.estimate import Estimate, Limit, Spread, Work, estimate
from hpc_yolo.forecast.rates import Rates, make_rates
from hpc_yolo.forecast.similar import MAX_READ, Request, Source, find_sources
from hpc_yolo.forecast.suggest import SuggestedLimit, suggest_limit
from hpc_yolo.launch.plan import Plan
from hpc_yolo.runs.directory import RunDirectory, find_runs

WRITTEN_BEYOND = 1  # training states that exist for a moment besides those that are kept


class LearnedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """A run that the estimate follows from. `differs`: what was scaled, a clause each."""

    name: str
    path: str
    is_own: bool
    num_steps: int
    num_epochs: float
    device: str
    differs: list[str]


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will take.

    Attributes:
        num_images: of the training set.
        wall_s: in all attempts together, without the queue before and between them.
        attempts: None where no attempt gets anywhere within the time limit.
        unit_hours: hours times GPUs, or times CPU cores for a run without GPUs (`unit`).
        limit_s: time limit of a job; None: none.
        needed_signal_s: seconds before the limit that measured saves and steps need; None: not measured.
        disk_bytes: of checkpoints; None: not measured.
        data_wait: fraction of a step that the slowest rank of the first measured run waited for images, the median of
            its log lines; None: not measured.
        assumed: what was not measured, a clause each.
        notes: what else keeps the run from ending, a sentence each.
    """

    work: Work
    batch: int
    world_size: int
    num_images: int
    wall_s: Spread
    attempts: Spread | None
    unit: str
    num_units: int
    unit_hours: Spread
    limit_s: int | None
    signal_before_s: int
    needed_signal_s: int | None
    suggested: SuggestedLimit | None
    disk_bytes: int | None
    data_wait: float | None
    learned_from: list[LearnedFrom]
    assumed: list[str]
    notes: list[str]
    rates: Rates


def make_forecast(
    plan: Plan,
    known: Callable[[], Iterable[RunDirectory]],
    *,
    counts_images: bool = True,
    max_read: int = MAX_READ,
    default_s: int | None = None,
    longest_s: int | None = None,
) -> Forecast | None:
    """Return what the run of `plan` will take; None where there is no run to learn from.

    Args:
        plan: of the submission.
        known: returns the runs to learn from besides that of the plan and those beside it.
        counts_images: count the images of a dataset that no measured run has used; without it the result is None then.
        max_read: read at most so many other runs, the newest.
        default_s: time limit of a job where the spec has none; None: no limit.
        longest_s: the longest time limit that Slurm allows.

    Raises:
        RunError: the number of images is not known.
    """
    request = Request(plan.spec, plan.world_size, plan.uses_slurm)
    sources = find_sources(request, plan.run, lambda: [*known(), *_runs_beside(plan)], max_read=max_read)
    numbers = _image_numbers(plan, sources, counts_images=counts_images) if sources else None
    if numbers is None:
        return None
    return _forecast(plan, sources, numbers, default_s, longest_s)


def _forecast(
    plan: Plan, sources: list[Source], numbers: tuple[int, int], default_s: int | None, longest_s: int | None
) -> Forecast:
    """Return the forecast that follows from `sources` and the numbers of images for training and validation."""
    num_images, num_validation = numbers
    batch = plan.spec.train.batch if plan.spec.train.batch > 0 else sources[0].times.start.batch
    rates = make_rates([source.times for source in sources], batch, plan.world_size, num_validation)
    is_aside = plan.spec.validate == "aside" and plan.uses_slurm
    work = _work(plan, sources, -(-num_images // batch), is_aside=is_aside)
    limit = _limit(plan, default_s)
    found = estimate(work, rates, limit)
    before_s = sbatch.signal_before_s(msgspec.structs.replace(plan.spec.cluster, time=None), plan.save_times)
    suggested = None
    if plan.uses_slurm:
        suggested = suggest_limit(work, rates, now=limit, longest_s=longest_s, before_s=before_s)
    unit, num_units = _units(plan)
    needed_s, disk_bytes = _from_saves(plan, sources)
    return Forecast(
        work=work,
        batch=batch,
        world_size=plan.world_size,
        num_images=num_images,
        wall_s=found.wall_s,
        attempts=found.attempts,
        unit=unit,
        num_units=num_units,
        unit_hours=_times(found.wall_s, num_units / 3600),
        limit_s=None if limit is None else limit.seconds,
        signal_before_s=before_s if limit is None else limit.signal_before_s,
        needed_signal_s=needed_s,
        suggested=suggested,
        disk_bytes=disk_bytes,
        data_wait=statistics.median(sources[0].times.waits) if sources[0].times.waits else None,
        learned_from=[_learned(source, plan.run) for source in sources],
        assumed=list(rates.assumed),
        notes=_notes(plan, found, limit),
        rates=rates,
    )


def _runs_beside(plan: Plan) -> list[RunDirectory]:
    """Return the runs in the output directory of `plan`, and the trials of its sweep."""
    found = []
    for root in (Path(plan.spec.output), plan.run.path.parent):
        with contextlib.suppress(RunError):  # not readable
            found += find_runs(root)
    return found


def wall_on(forecast: Forecast, plan: Plan, num_nodes: int) -> float:
    """Return the expected wall time of the run; on another number of nodes with the same batch and in one attempt."""
    if num_nodes == plan.num_nodes:
        return forecast.wall_s.expected
    rates = forecast.rates.scaled(plan.num_nodes / num_nodes)
    return estimate(forecast.work, rates, None).wall_s.expected


def _work(plan: Plan, sources: list[Source], steps_per_epoch: int, *, is_aside: bool) -> Work:
    """Return what is left to train; all of it where the run has not begun, or is finished."""
    own = next((source for source in sources if source.run == plan.run), None)
    train = plan.spec.train
    done = 0 if own is None or own.last_step >= train.epochs * steps_per_epoch else own.last_step
    return Work(train.epochs, steps_per_epoch, 0 if is_aside else train.val_every, done)


def _image_numbers(plan: Plan, sources: list[Source], *, counts_images: bool) -> tuple[int, int] | None:
    """Return (training images, validation images or 0); None where they would have to be counted.

    Raises:
        RunError: they cannot be counted here.
    """
    seen = next((source.times for source in sources if source.data == plan.spec.data.described), None)
    if seen is not None and (seen.num_evaluated or not counts_images):
        return seen.start.num_images, seen.num_evaluated
    if not counts_images:
        return None

    from hpc_yolo.data.image_count import count_images  # 20 ms, of no use where a run has counted them

    data = plan.spec.data.described
    try:
        dataset = load_dataset(source_of(plan.spec.data))
        training, validation = (count_images(dataset, name) for name in ("train", "val"))
    except (DataError, OSError) as error:
        if seen is not None:
            return seen.start.num_images, 0
        raise RunError(
            f"{data}: its images cannot be counted here, and no measured run has used it: {_message(error)}",
            hint="with --probe, a short attempt counts them where the tasks run",
        ) from error
    return training, validation


def _message(error: DataError | OSError) -> str:
    return error.message if isinstance(error, DataError) else str(error)


def _limit(plan: Plan, default_s: int | None) -> Limit | None:
    """Return the time limit of a job of `plan`; None: none."""
    if not plan.uses_slurm:
        return None
    time = plan.spec.cluster.time
    seconds = default_s if time is None else parse_limit_s(time)
    before_s = sbatch.signal_before_s(plan.spec.cluster, plan.save_times)
    return None if seconds is None else Limit(seconds, min(before_s, seconds))


def _units(plan: Plan) -> tuple[str, int]:
    """Return what is charged for, and how many of them the run holds."""
    if plan.gpus_per_node:
        return "GPU", plan.num_nodes * plan.gpus_per_node
    return "CPU", plan.world_size * plan.spec.cluster.cpus_per_task


def _times(spread: Spread, factor: float) -> Spread:
    return Spread(spread.low * factor, spread.expected * factor, spread.high * factor)


def _from_saves(plan: Plan, sources: list[Source]) -> tuple[int | None, int | None]:
    """Return (seconds that the signal needs before the limit, bytes of the checkpoints); None: not measured."""
    source = next((source for source in sources if source.saves is not None), None)
    if source is None or source.saves is None:
        return None, None
    checkpoint, train = plan.spec.checkpoint, plan.spec.train
    unlimited = msgspec.structs.replace(plan.spec.cluster, signal_before_s="auto", time=None)
    num_models = 1 + (train.epochs // train.save_period if train.save_period > 0 else 0)
    states_bytes = (checkpoint.keep_last + WRITTEN_BEYOND) * source.saves.size_bytes
    return sbatch.signal_before_s(unlimited, source.saves), states_bytes + num_models * source.model_bytes


def _learned(source: Source, own: RunDirectory) -> LearnedFrom:
    start = source.times.start
    return LearnedFrom(
        name=source.run.name,
        path=str(source.run.path),
        is_own=source.run == own,
        num_steps=source.times.num_steps,
        num_epochs=source.times.num_steps / start.steps_per_epoch,
        device=start.device,
        differs=list(source.differs),
    )


def _notes(plan: Plan, found: Estimate, limit: Limit | None) -> list[str]:
    """Return what may end the run earlier, or keep it from its end."""
    notes = []
    cluster, train = plan.spec.cluster, plan.spec.train
    if limit is not None and found.attempts is None:
        notes.append(
            f"the limit of {format_time(limit.seconds)} is too short: an attempt would end before it has done anything"
        )
    if limit is not None and found.attempts is not None and found.attempts.high > 1:
        at_limit = int(found.attempts.high) - 1
        if cluster.requeue == "off":
            notes.append("cluster.requeue is off: each attempt after the first has to be submitted")
        elif at_limit > cluster.max_timeouts:
            notes.append(
                f"{counted(at_limit, 'attempt')} would end at the limit, and cluster.max_timeouts is "
                f"{cluster.max_timeouts}: the run would end there"
            )
    if 0 < train.patience < train.epochs and train.val_every:
        notes.append(f"train.patience {train.patience} may end it sooner")
    return notes
