"""One run's journal, folded as it grows into what the screen needs of it: constant memory, each byte read once."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import (
    AnyEvent,
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    EpochEnded,
    Evaluated,
    StepLogged,
    TrainingLeft,
    WarningRaised,
)
from hpc_yolo.runs.journal import JournalReader
from hpc_yolo.runs.metrics import total_loss

TREND_POINTS = 64
LAST_WARNINGS = 5
LAST_STEPS = 5
STEPS_A_READ = 64  # of single steps, as many as a trend has points


class Trend:
    """A curve over steps in a bounded number of points: the newest of each stretch of equally many steps."""

    def __init__(self, max_points: int = TREND_POINTS) -> None:
        self._max_points = max_points
        self._stretch = 1
        self.steps: list[int] = []
        self.values: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Add the newest point; what a lost attempt had from `step` on is done again, so it goes."""
        if self.steps:
            place = bisect_left(self.steps, step)
            if place == len(self.steps) and self.steps[-1] // self._stretch == step // self._stretch:
                place -= 1
            del self.steps[place:], self.values[place:]
        self.steps.append(step)
        self.values.append(value)
        while len(self.steps) > self._max_points:
            self._stretch *= 2
            newest = {step // self._stretch: place for place, step in enumerate(self.steps)}
            self.steps = [self.steps[place] for place in newest.values()]
            self.values = [self.values[place] for place in newest.values()]


@dataclass
class RunRecord:
    """What the events so far amount to.

    Attributes:
        last_steps: figures of the ranks that train now, oldest first.
        saved_times: of the last two checkpoints, in seconds since 1970.
    """

    num_events: int = 0
    last_time: float = 0.0
    progress: StepLogged | EpochEnded | None = None
    evaluated: Evaluated | None = None
    best: Evaluated | None = None
    attempts: Attempts = field(default_factory=Attempts)
    warnings: deque[WarningRaised] = field(default_factory=lambda: deque(maxlen=LAST_WARNINGS))
    last_steps: deque[StepLogged] = field(default_factory=lambda: deque(maxlen=LAST_STEPS))
    saved_times: deque[float] = field(default_factory=lambda: deque(maxlen=2))
    loss: Trend = field(default_factory=Trend)
    map50_95: Trend = field(default_factory=Trend)
    images_per_s: Trend = field(default_factory=Trend)

    @property
    def started(self) -> AttemptStarted | None:
        """The start of the newest attempt whose training began."""
        return next(reversed(self.attempts.starts), None)

    @property
    def newest(self) -> AttemptStarted | TrainingLeft | AttemptEnded | None:
        """The newest event that changes the state of the run."""
        return None if self.attempts.newest is None else self.attempts.newest.newest

    @property
    def step(self) -> StepLogged | None:
        """The newest figures of the ranks that train now."""
        return self.last_steps[-1] if self.last_steps else None

    def add(self, events: Iterable[AnyEvent]) -> None:
        """Take in further events, oldest first."""
        for event in events:
            self.num_events += 1
            self.last_time = event.time
            self.attempts.add(event)
            if isinstance(event, (StepLogged, EpochEnded)):
                self._add_progress(event)
            elif isinstance(event, Evaluated):
                self.evaluated = event
                self.best = event if event.is_best else self.best
                self.map50_95.add(event.step, event.metrics.map50_95)
            elif isinstance(event, AttemptStarted):
                self.last_steps.clear()
            elif isinstance(event, CheckpointSaved):
                self.saved_times.append(event.time)
            elif isinstance(event, WarningRaised):
                self.warnings.append(event)

    def _add_progress(self, event: StepLogged | EpochEnded) -> None:
        self.progress = event
        if isinstance(event, StepLogged):
            self.last_steps.append(event)
            self.images_per_s.add(event.step, event.images_per_s)
        if (loss := total_loss(event.losses)) is not None:
            self.loss.add(event.step, loss)


def resampled(trend: Trend, num_points: int) -> Sequence[float]:
    """`trend` at evenly spaced steps: for each, the newest value there was; shorter where it has fewer points."""
    if len(trend.steps) <= num_points:
        return trend.values
    first, last = trend.steps[0], trend.steps[-1]
    wanted = (first + (last - first) * number / (num_points - 1) for number in range(num_points))
    return [trend.values[min(bisect_left(trend.steps, step), len(trend.values) - 1)] for step in wanted]


class RecordReader:
    """Keeps the record of one run up to date. A journal that was replaced is read anew."""

    def __init__(self, run: RunDirectory, *, max_steps: int | None = STEPS_A_READ) -> None:
        self.run = run
        self.record = RunRecord()
        self._max_steps = max_steps
        self._start_over()

    def _start_over(self) -> None:
        self.record = RunRecord()
        self._reader = JournalReader(self.run.journal)
        self._file: tuple[int, int] | None = None
        self.size_bytes = 0

    def has_news(self) -> bool:
        """Whether the journal has changed since it was read; one look at its directory entry.

        Raises:
            OSError: it cannot be looked at.
        """
        try:
            stat = self.run.journal.stat()
        except FileNotFoundError:
            return self._file is not None
        return (stat.st_dev, stat.st_ino) != self._file or stat.st_size != self.size_bytes

    def read(self) -> list[AnyEvent]:
        """Take in what is new; the new events.

        Raises:
            OSError: the journal cannot be read.
        """
        try:
            stat = self.run.journal.stat()
        except FileNotFoundError:
            self._start_over()
            return []
        file = (stat.st_dev, stat.st_ino)
        if self._file is not None and (file != self._file or stat.st_size < self.size_bytes):
            self._start_over()
        events = self._reader.new_events(self._max_steps)
        self.record.add(events)
        self._file, self.size_bytes = file, stat.st_size
        return events
