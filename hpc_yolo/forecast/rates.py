"""How long each part of a planned run takes: measured times of one or more runs, scaled to its ranks and images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hpc_yolo.forecast.run_times import RunTimes, step_times_by_epoch

FEW = 5  # epochs; the range of fewer is from the fastest to the slowest


@dataclass(frozen=True)
class Rates:
    """Seconds of the parts of a run.

    Attributes:
        startup_s, resume_s: from the first process of an attempt to its training, from step 0 and later.
        warmup_s: what the first steps of an attempt take more than later ones.
        step_s: of one step, the mean; `fast_step_s` and `slow_step_s` of fast and slow epochs.
        evaluation_s: of one evaluation.
        finish_s: after the last evaluation.
        stop_s: from the last step before a signal to the end of the attempt.
        assumed: the parts that were not measured, and what is assumed, a clause each.
    """

    step_s: float
    fast_step_s: float
    slow_step_s: float
    startup_s: float = 0.0
    resume_s: float = 0.0
    warmup_s: float = 0.0
    evaluation_s: float = 0.0
    finish_s: float = 0.0
    stop_s: float = 0.0
    assumed: tuple[str, ...] = ()

    def scaled(self, factor: float) -> Rates:
        """Return the rates with `factor` times the images on each rank."""
        steps = (self.step_s, self.fast_step_s, self.slow_step_s)
        step_s, fast_s, slow_s = (factor * seconds for seconds in steps)
        return replace(
            self, step_s=step_s, fast_step_s=fast_s, slow_step_s=slow_s, evaluation_s=factor * self.evaluation_s
        )

    def fast(self) -> Rates:
        """Return the rates of fast epochs."""
        return replace(self, step_s=self.fast_step_s)

    def slow(self) -> Rates:
        """Return the rates of slow epochs."""
        return replace(self, step_s=self.slow_step_s)


def make_rates(
    measured: Sequence[RunTimes], batch: int, world_size: int, num_validation: int, *, evaluates: bool = True
) -> Rates:
    """Return the rates of a run that is similar to those in `measured`.

    A step takes time in proportion to the images of a rank, an evaluation in proportion to the images and to the
    inverse of the number of ranks.

    Args:
        measured: times of runs with the same model, image size and type of GPU; at least one.
        batch: images of a step over all ranks.
        world_size: number of ranks.
        num_validation: images of an evaluation; 0: as many as in the measured runs.
        evaluates: the tasks evaluate the model.
    """
    per_rank = batch / world_size
    scales = [per_rank / times.images_per_rank for times in measured]
    num_steps = sum(times.num_steps for times in measured)
    step_s = sum(times.step_s * times.num_steps * scale for times, scale in zip(measured, scales, strict=True))
    step_s /= num_steps
    fast_s, slow_s = spread(
        [one * scale for times, scale in zip(measured, scales, strict=True) for one in step_times_by_epoch(times)]
    )
    evaluation_s, assumed = _evaluation(measured, world_size, num_validation, per_rank / step_s)
    startup_s = _mean(one for times in measured for one in times.startups_s)
    resume_s = _mean(one for times in measured for one in times.resumes_s)
    finish_s = _mean(one for times in measured for one in times.finishes_s)
    if finish_s is None:
        assumed = (*assumed, "the end after the last epoch (assumed: one more evaluation)")
    stop_s = _mean(one for times in measured for one in times.stops_s)
    return Rates(
        step_s=step_s,
        fast_step_s=min(fast_s, step_s),
        slow_step_s=max(slow_s, step_s),
        startup_s=_first(startup_s, resume_s),
        resume_s=_first(resume_s, startup_s),
        warmup_s=_first(_mean(one for times in measured for one in times.warmups_s)),
        evaluation_s=evaluation_s if evaluates else 0.0,
        finish_s=evaluation_s if finish_s is None else finish_s,
        stop_s=_first(stop_s),
        assumed=assumed if evaluates or finish_s is None else (),
    )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the tenth and the ninetieth percentile of `values`; of a few, the least and the greatest."""
    if len(values) < FEW:
        return min(values), max(values)
    ordered = sorted(values)
    tenth = (len(ordered) - 1) // 10
    return ordered[tenth], ordered[-1 - tenth]


def _evaluation(
    measured: Sequence[RunTimes], world_size: int, num_validation: int, images_per_s_of_rank: float
) -> tuple[float, tuple[str, ...]]:
    """Return (seconds of an evaluation, what is assumed)."""
    seconds = [
        sum(times.evaluations_s)
        / len(times.evaluations_s)
        * (num_validation or times.num_evaluated)
        / max(times.num_evaluated, 1)
        * (times.start.world_size / world_size)
        for times in measured
        if times.evaluations_s
    ]
    if seconds:
        return sum(seconds) / len(seconds), ()
    if not num_validation:
        return 0.0, ("evaluations (assumed: no time)",)
    return num_validation / world_size / images_per_s_of_rank, ("evaluations (assumed: as fast as training)",)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _first(*values: float | None) -> float:
    """Return the first value that is known, else 0."""
    return next((value for value in values if value is not None), 0.0)
