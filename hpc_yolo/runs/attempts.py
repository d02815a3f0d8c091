"""The attempts of a run: the one fold of its events, which everything that asks about attempts reads.

The fold keeps a few values for each attempt, independent of the length of the journal, and can grow with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from hpc_yolo.runs.events import (
    AnyEvent,
    AttemptEnded,
    AttemptStarted,
    EpochEnded,
    StepLogged,
    TrainingLeft,
    TrialStopped,
)


@dataclass
class Attempt:
    """One attempt of a run. All times in seconds since 1970.

    Attributes:
        first_time: of its first event.
        last_time: of its newest event before its end.
        started: its training began; None where it ended before that.
        left: its ranks have left the training.
        stopped: the stop rule of a sweep has ended the trial.
        ended: the newest record of its end; None while it runs, and where nothing was recorded.
        last_step: the step of its newest log line, or at which it began.
        has_stepped: it has done at least one step.
    """

    number: int
    first_time: float
    last_time: float
    started: AttemptStarted | None = None
    left: TrainingLeft | None = None
    stopped: TrialStopped | None = None
    ended: AttemptEnded | None = None
    last_step: int = 0
    has_stepped: bool = False

    @property
    def begin(self) -> float:
        """When its first process began, or the time of its first event."""
        if self.started is None or self.started.process_started is None:
            return self.first_time
        return min(self.started.process_started, self.first_time)

    @property
    def training_begin(self) -> float:
        """When its training began; the time of its first event where it ended before that."""
        return self.first_time if self.started is None else self.started.time

    @property
    def end(self) -> float:
        """When it ended, or the time of its newest event."""
        return self.last_time if self.ended is None else self.ended.time

    @property
    def first_step(self) -> int:
        """The step at which its training began."""
        return 0 if self.started is None else self.started.step

    @property
    def goes_on(self) -> bool:
        """True while it runs, or if another attempt follows automatically; also after an end without a record."""
        return self.ended is None or self.ended.requeued

    @property
    def cause(self) -> str:
        """Why it ended; "" while that is not recorded."""
        return "" if self.ended is None else self.ended.cause or self.ended.outcome

    @property
    def detail(self) -> str:
        """The message about its end; "" while that is not recorded."""
        return "" if self.ended is None else self.ended.detail

    @property
    def newest(self) -> AttemptStarted | TrainingLeft | AttemptEnded | None:
        """The event of the newest of its three phases."""
        return self.ended or self.left or self.started

    def is_of(self, job_ids: Collection[str], submitted: float) -> bool:
        """Return True for an attempt of the jobs, `submitted` then; by id too, since a node's clock may be behind."""
        return self.end >= submitted or (self.started is not None and starts_in(self.started, job_ids))

    def add(self, event: AnyEvent) -> None:
        """Take in its next event."""
        if isinstance(event, AttemptEnded):
            self.ended = event
            return
        self.last_time = event.time
        if isinstance(event, (StepLogged, EpochEnded)):  # first: most events are of these
            self.last_step = event.step
        elif isinstance(event, AttemptStarted):
            self.started, self.last_step = event, event.step
        elif isinstance(event, TrainingLeft):
            self.left = event
        elif isinstance(event, TrialStopped):
            self.stopped = event
        if not self.has_stepped and self.started is not None:
            self.has_stepped = getattr(event, "step", 0) > self.started.step


def starts_in(started: AttemptStarted, job_ids: Collection[str]) -> bool:
    """Return True for an attempt of one of these jobs of Slurm; local jobs have process ids, which are reused."""
    return started.launcher != "submitit-local" and started.job_id in job_ids


class Attempts:
    """The attempts of a run in the order of their numbers."""

    def __init__(self, events: Iterable[AnyEvent] = ()) -> None:
        self._by_number: dict[int, Attempt] = {}
        for event in events:
            self.add(event)

    def add(self, event: AnyEvent) -> None:
        """Take in the next event of the journal."""
        attempt = self._by_number.get(event.attempt)
        if attempt is None:
            attempt = self._by_number[event.attempt] = Attempt(event.attempt, event.time, event.time)
        attempt.add(event)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(sorted(self._by_number.values(), key=lambda attempt: attempt.number))

    def get(self, number: int | None) -> Attempt | None:
        """Return attempt `number`; None where it has no event."""
        return None if number is None else self._by_number.get(number)

    @property
    def started(self) -> list[Attempt]:
        """Those whose training began."""
        return [attempt for attempt in self if attempt.started is not None]

    @property
    def newest(self) -> Attempt | None:
        """The newest attempt that has started training or has ended."""
        begun = (attempt for attempt in self._by_number.values() if attempt.newest is not None)
        return max(begun, key=lambda attempt: attempt.number, default=None)

    @property
    def end_before_newest(self) -> float:
        """The end of the attempt before the newest one, after which failures are of the newest; 0 without one."""
        newest = self.newest
        return max((one.end for one in self if newest is not None and one.number < newest.number), default=0.0)

    @property
    def starts(self) -> list[AttemptStarted]:
        """The starts of those whose training began."""
        return [attempt.started for attempt in self if attempt.started is not None]

    @property
    def lost(self) -> AttemptStarted | None:
        """The start of the newest attempt, if there is no record of its end."""
        return None if self.newest is None or self.newest.ended is not None else self.newest.started

    @property
    def last_end(self) -> AttemptEnded | None:
        """The end of the newest attempt that has one."""
        return next((attempt.ended for attempt in reversed(list(self)) if attempt.ended is not None), None)

    @property
    def last_step(self) -> int:
        """The last step that the journal shows."""
        started = self.started
        return started[-1].last_step if started else 0

    @property
    def trial_stop(self) -> TrialStopped | None:
        """The comparison that ended the run, a trial of a sweep; None where it ended otherwise, or has trained on."""
        last = next((attempt for attempt in reversed(list(self)) if attempt.stopped or attempt.has_stepped), None)
        return None if last is None else last.stopped

    @property
    def failed_nodes(self) -> list[str]:
        """Nodes that have failed under this run."""
        return sorted({node for attempt in self if attempt.ended is not None for node in attempt.ended.failed_nodes})

    def without(self, number: int | None) -> list[Attempt]:
        """Return all attempts but attempt `number`."""
        return [attempt for attempt in self if attempt.number != number]


def count_causes(attempts: Iterable[Attempt]) -> Counter[str]:
    """Count how many of `attempts` have ended for each cause."""
    return Counter(attempt.ended.cause for attempt in attempts if attempt.ended is not None and attempt.ended.cause)
