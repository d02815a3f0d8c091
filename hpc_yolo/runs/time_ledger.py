"""Wall time of a run by kind: a pure function of its events that counts every second once.

- queue: submitted and not running: the scheduler's queue, and what Slurm needs between two attempts
- startup: from the first process of an attempt to the first step: imports, images, model, connecting the ranks
- staging: in it, copying the images to the nodes
- data: the slowest rank waits for images
- step: forward, backward, reduction, optimiser, and what overlaps with them
- validation: evaluations, and the images of the last one
- save: waiting until the state is durable; saves beside the steps cost no wall time
- lost: without a result, or done again by a later attempt: steps after the last checkpoint, an evaluation that was cut
  off, a rank that hung, an attempt that failed before its first step
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hpc_yolo.runs.attempts import Attempt, Attempts
from hpc_yolo.runs.events import (
    AnyEvent,
    AttemptEnded,
    AttemptStarted,
    DataStaging,
    EpochEnded,
    Evaluated,
    ResultsWritten,
    StepLogged,
    TrainingLeft,
)

KINDS = ("queue", "startup", "staging", "data", "step", "validation", "save", "lost")


@dataclass(frozen=True)
class AttemptLedger:
    """The time of one attempt. Times in seconds since 1970; `end` of a running attempt is now.

    Attributes:
        seconds: by kind, without the queue before it.
        queued_s: time in the queue before it.
        gpus: number of GPUs that it held; 0 on CPUs.
    """

    number: int
    begin: float
    end: float
    queued_s: float
    ranks: int
    gpus: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Ledger:
    """The attempts and their sums.

    Attributes:
        away_s: seconds in which the run had ended and was not submitted again; in no kind and not in the sum.
    """

    attempts: tuple[AttemptLedger, ...] = ()
    away_s: float = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """The time by kind, in the order of `KINDS`."""
        found = {kind: sum(attempt.seconds.get(kind, 0.0) for attempt in self.attempts) for kind in KINDS}
        return found | {"queue": sum(attempt.queued_s for attempt in self.attempts)}

    @property
    def total_s(self) -> float:
        """The time from the first submission to the end, or to now, without `away_s`."""
        return sum(self.seconds.values())

    @property
    def gpu_s(self) -> float:
        """Time multiplied by the GPUs that the attempts held, idle or not."""
        return sum((attempt.end - attempt.begin) * attempt.gpus for attempt in self.attempts)

    @property
    def rank_s(self) -> float:
        """Time multiplied by the ranks, on any device."""
        return sum((attempt.end - attempt.begin) * attempt.ranks for attempt in self.attempts)


def make_ledger(events: Iterable[AnyEvent], submitted: Sequence[float] = (), now: float | None = None) -> Ledger:
    """Return the ledger of a run.

    Args:
        events: of the journal, oldest first.
        submitted: when a user submitted the run, in seconds since 1970. The time between an attempt that was not
            queued again and the next submission is `away_s`.
        now: the time, for a run whose last attempt is alive; None where it has ended.
    """
    attempts, by_attempt = Attempts(), dict[int, list[AnyEvent]]()
    for event in events:
        attempts.add(event)
        by_attempt.setdefault(event.attempt, []).append(event)
    spans = [_Span(attempt, by_attempt[attempt.number]) for attempt in attempts]
    for index, span in enumerate(spans):
        span.close(spans[index + 1] if index + 1 < len(spans) else None, now)
        if span.started is not None:
            for earlier in spans[:index]:
                earlier.lose_after(span.started.epoch, span.started.step)
    entries, away_s = list[AttemptLedger](), 0.0
    free_since = min(submitted, default=spans[0].begin) if spans else 0.0
    for index, span in enumerate(spans):
        queued_since = min(free_since, span.begin)
        again = [time for time in submitted if queued_since < time <= span.begin]
        if again:
            queued_since = min(again)
        elif index and not spans[index - 1].attempt.goes_on:
            queued_since = span.begin
        away_s += max(queued_since - free_since, 0.0)
        entries.append(span.entry(span.begin - queued_since))
        free_since = max(span.end, span.begin)
    return Ledger(tuple(entries), away_s)


@dataclass
class _Piece:
    """Time of one kind up to `step`, in which `num_steps` were done."""

    kind: str
    seconds: float
    epoch: int
    step: int
    num_steps: int = 0


@dataclass
class _Span:
    """One attempt while its ledger is computed."""

    attempt: Attempt
    events: Sequence[AnyEvent]
    pieces: list[_Piece] = field(default_factory=list)
    end: float = 0.0

    @property
    def started(self) -> AttemptStarted | None:
        """The start of its training."""
        return self.attempt.started

    @property
    def begin(self) -> float:
        """When its first process began."""
        return self.attempt.begin

    def close(self, follower: _Span | None, now: float | None) -> None:
        """Divide its time. An end that only its follower has recorded has no time of its own."""
        own = [event for event in self.events if follower is None or event.time <= follower.begin]
        self.end = max((event.time for event in own), default=self.begin)
        if follower is None and self.attempt.ended is None and now is not None:
            self.end = max(self.end, now)
        if self.started is not None:
            self._add_startup(self.started.time, self.started.epoch)
            _Divider(self, self.started).divide(own)
        elif follower is None and self.attempt.ended is None and now is not None:
            self._add_startup(self.end, 0)
        else:
            self.pieces.append(_Piece("lost", self.end - self.begin, 0, 0))

    def _add_startup(self, until: float, epoch: int) -> None:
        """Divide the time up to the first step."""
        startup_s = max(until - self.begin, 0.0)
        staged_s = max((event.seconds for event in self.events if isinstance(event, DataStaging)), default=0.0)
        staged_s = min(staged_s, startup_s)
        self.pieces.append(_Piece("staging", staged_s, epoch, 0))
        self.pieces.append(_Piece("startup", startup_s - staged_s, epoch, 0))

    def lose_after(self, epoch: int, step: int) -> None:
        """Count as lost what was done after `step`: a later attempt begins there, in `epoch`."""
        for piece in [piece for piece in self.pieces if piece.kind in ("data", "step", "validation")]:
            again = min(piece.step - step, max(piece.num_steps, 1))
            if piece.kind == "validation" and piece.epoch >= epoch:
                again = 1
            if again > 0:
                seconds = piece.seconds * again / max(piece.num_steps, 1)
                self.pieces.append(_Piece("lost", seconds, piece.epoch, piece.step))
                piece.seconds, piece.step, piece.num_steps = piece.seconds - seconds, step, piece.num_steps - again

    def entry(self, queued_s: float) -> AttemptLedger:
        """Return its part of the ledger."""
        seconds: dict[str, float] = {}
        for piece in self.pieces:
            seconds[piece.kind] = seconds.get(piece.kind, 0.0) + piece.seconds
        ranks = 0 if self.started is None else self.started.world_size
        gpus = 0 if self.started is None or self.started.device == "cpu" else ranks
        return AttemptLedger(self.attempt.number, self.begin, self.end, queued_s, ranks, gpus, seconds)


class _Divider:
    """Divides the time of one attempt by its events, each of which closes a period of one kind."""

    def __init__(self, span: _Span, started: AttemptStarted) -> None:
        self._span = span
        self._mark = started.time
        self._epoch, self._step = started.epoch, started.step
        self._epoch_is_over = False
        self._has_left = False
        self._wait_fraction = 0.0  # of a step, waiting for data; as measured last

    def divide(self, events: Iterable[AnyEvent]) -> None:
        """Fill the span's pieces, up to its end."""
        for event in events:
            if isinstance(event, StepLogged):
                longest_s = max(event.rank_step_s, default=0.0)
                waited_s = max(event.rank_data_wait_s, default=0.0)
                self._wait_fraction = min(waited_s / longest_s, 1.0) if longest_s > 0 else 0.0
                self._add_steps(event.time, event.epoch, event.step)
            elif isinstance(event, EpochEnded):
                self._add_steps(event.time, event.epoch, event.step)
                self._epoch_is_over = True
            elif isinstance(event, Evaluated):
                if not event.is_aside:
                    self._add("validation", event.time)
                self._epoch_is_over = False
            elif isinstance(event, ResultsWritten):
                self._add("save", event.time - event.seconds)
                self._add("validation", event.time)
            elif isinstance(event, TrainingLeft):
                self._leave(event)
            elif isinstance(event, AttemptEnded):
                self._add_end(event)
        if self._span.end > self._mark:
            kind = "lost" if self._span.attempt.ended is not None else self._running_kind()
            self._add(kind, self._span.end)

    def _running_kind(self) -> str:
        """Return the kind of the time since the last event of an attempt that has not ended."""
        if self._has_left:
            return "save"
        return "validation" if self._epoch_is_over else "step"

    def _leave(self, event: TrainingLeft) -> None:
        if event.step > self._step:
            self._add_steps(event.time, self._epoch, event.step)
        elif self._epoch_is_over and event.signal:
            self._add("lost", event.time)  # an evaluation that starts again
        self._has_left = True

    def _add_end(self, event: AttemptEnded) -> None:
        if event.outcome == AttemptEnded.FAILED:
            self._add("lost", event.time)
            return
        if event.step > self._step:
            self._add_steps(event.time, self._epoch, event.step)
        self._add("save", event.time)

    def _add_steps(self, until: float, epoch: int, step: int) -> None:
        """Add the training up to `step`; after a rollback to a checkpoint, count the steps since as lost."""
        if step < self._step:
            self._span.lose_after(epoch + 1, step - 1)
            self._step = step - 1
        num_steps = step - self._step
        seconds = max(until - self._mark, 0.0)
        data_s = seconds * self._wait_fraction
        self._span.pieces.append(_Piece("data", data_s, epoch, step, num_steps))
        self._span.pieces.append(_Piece("step", seconds - data_s, epoch, step, num_steps))
        self._mark = max(until, self._mark)
        self._epoch, self._step, self._epoch_is_over = epoch, step, False

    def _add(self, kind: str, until: float) -> None:
        seconds = max(until - self._mark, 0.0)
        self._span.pieces.append(_Piece(kind, seconds, self._epoch, self._step))
        self._mark = max(until, self._mark)
