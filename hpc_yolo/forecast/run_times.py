"""Measured times of one run: a pure function of its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hpc_yolo.runs.attempts import Attempt, Attempts
from hpc_yolo.runs.events import (
    AnyEvent,
    AttemptEnded,
    AttemptStarted,
    EpochEnded,
    Evaluated,
    StepLogged,
)


@dataclass(frozen=True)
class Steps:
    """Steps of one epoch in one attempt, and the wall time in which they were done, without evaluations."""

    epoch: int
    num_steps: int
    seconds: float


@dataclass
class RunTimes:
    """Wall times of a run, of those attempts that had as many ranks as the newest one.

    Attributes:
        start: of the newest attempt: number of ranks, device, batch, images and steps of an epoch.
        steps: in the order of training, without the first epoch of each attempt, in which caches are filled, and of an
            attempt within one epoch without its first log line.
        startups_s: from the first process to the first step, of attempts that began at step 0.
        resumes_s: the same of attempts that continued.
        warmups_s: what these first steps of an attempt took more than later ones.
        evaluations_s, num_evaluated: the evaluations by the tasks, and the images of each.
        finishes_s: from the last evaluation to the end of the attempt that finished.
        stops_s: from the last step before a signal to the end of the attempt.
        waits: for each log line, the fraction of its steps that the slowest rank waited for images.
    """

    start: AttemptStarted
    steps: list[Steps] = field(default_factory=list)
    startups_s: list[float] = field(default_factory=list)
    resumes_s: list[float] = field(default_factory=list)
    warmups_s: list[float] = field(default_factory=list)
    evaluations_s: list[float] = field(default_factory=list)
    num_evaluated: int = 0
    finishes_s: list[float] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def num_steps(self) -> int:
        """Number of steps that were measured."""
        return sum(one.num_steps for one in self.steps)

    @property
    def step_s(self) -> float:
        """Mean time of a step."""
        return sum(one.seconds for one in self.steps) / max(self.num_steps, 1)

    @property
    def images_per_rank(self) -> float:
        """Images of a step on each rank."""
        return self.start.batch / self.start.world_size


def run_times(events: Iterable[AnyEvent], start: AttemptStarted | None = None) -> RunTimes | None:
    """Return the times of a run; None where no attempt of it has done two log lines of steps.

    Args:
        events: of the journal, oldest first; its beginning may be missing.
        start: of an attempt before the events, where their beginning is missing.
    """
    attempts, by_attempt = Attempts(), dict[int, list[AnyEvent]]()
    for event in events:
        attempts.add(event)
        by_attempt.setdefault(event.attempt, []).append(event)
    newest = attempts.starts[-1] if attempts.starts else start
    if newest is None:
        return None
    times = RunTimes(newest)
    warmups: list[list[Steps]] = []
    for attempt in attempts:
        if _is_alike(attempt.started or start, newest):
            reader = _AttemptReader(times, attempt)
            reader.read(by_attempt[attempt.number])
            first, later = _without_first(reader.steps)
            times.steps += later
            warmups += [first] if first else []
    if not times.steps:  # attempts of one log line are better than nothing
        times.steps, warmups = [one for group in warmups for one in group], []
    if not times.num_steps:
        return None
    for group in warmups:
        excess_s = sum(one.seconds for one in group) - sum(map(_count, group)) * times.step_s
        times.warmups_s.append(max(excess_s, 0.0))
    return times


def _without_first(steps: list[Steps]) -> tuple[list[Steps], list[Steps]]:
    """Return (the steps of the first epoch, the later ones) of an attempt; its first log line where it has only one."""
    first = [one for one in steps if one.epoch == steps[0].epoch]
    if len(first) == len(steps):
        return steps[:1], steps[1:]
    return first, steps[len(first) :]


def _is_alike(start: AttemptStarted | None, newest: AttemptStarted) -> bool:
    if start is None:
        return False
    return (start.world_size, start.device, start.batch) == (newest.world_size, newest.device, newest.batch)


class _AttemptReader:
    """Adds the times of one attempt; each event closes a period."""

    def __init__(self, times: RunTimes, attempt: Attempt) -> None:
        self.steps: list[Steps] = []
        self._times, self._attempt = times, attempt
        self._mark: tuple[float, int] | None = None  # time and step of the last event
        self._epoch_is_over = False

    def read(self, events: Iterable[AnyEvent]) -> None:
        """Add the times in `events`, those of this attempt."""
        if (started := self._attempt.started) is not None:
            taken_s = max(self._attempt.training_begin - self._attempt.begin, 0.0)
            (self._times.resumes_s if started.step else self._times.startups_s).append(taken_s)
            self._mark = (started.time, started.step)
        for event in events:
            if isinstance(event, (StepLogged, EpochEnded)):
                self._add_steps(event)
            elif isinstance(event, Evaluated) and not event.is_aside:
                self._add_evaluation(event)
            elif isinstance(event, AttemptEnded):
                self._add_end(event)

    def _add_steps(self, event: StepLogged | EpochEnded) -> None:
        self._epoch_is_over = isinstance(event, EpochEnded)
        if isinstance(event, StepLogged) and (step_s := max(event.rank_step_s, default=0.0)) > 0:
            self._times.waits.append(min(max(event.rank_data_wait_s, default=0.0) / step_s, 1.0))
        if self._mark is not None and event.step > self._mark[1]:
            self.steps.append(Steps(event.epoch, event.step - self._mark[1], max(event.time - self._mark[0], 0.0)))
        if self._mark is None or event.step != self._mark[1] or self._epoch_is_over:
            self._mark = (event.time, event.step)

    def _add_evaluation(self, event: Evaluated) -> None:
        self._times.num_evaluated = event.num_images
        if self._epoch_is_over and self._mark is not None:
            self._times.evaluations_s.append(max(event.time - self._mark[0], 0.0))
        else:
            self._times.evaluations_s.append(event.seconds)
        self._mark, self._epoch_is_over = (event.time, event.step), False

    def _add_end(self, event: AttemptEnded) -> None:
        left = self._attempt.left
        if event.outcome == AttemptEnded.FINISHED and self._mark is not None:
            self._times.finishes_s.append(max(event.time - self._mark[0], 0.0))
        elif event.outcome == AttemptEnded.STOPPED and left is not None:
            self._times.stops_s.append(max(event.time - left.time, 0.0))


def step_times_by_epoch(times: RunTimes) -> Iterator[float]:
    """Yield the mean time of a step of each epoch of which at least half was measured; else of each log line."""
    by_epoch: dict[int, list[Steps]] = {}
    for one in times.steps:
        by_epoch.setdefault(one.epoch, []).append(one)
    whole = [group for group in by_epoch.values() if 2 * sum(map(_count, group)) >= times.start.steps_per_epoch]
    for group in whole if len(whole) > 1 else [[one] for one in times.steps]:
        yield sum(one.seconds for one in group) / sum(map(_count, group))


def _count(steps: Steps) -> int:
    return steps.num_steps
