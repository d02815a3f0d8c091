"""One run's journal, folded as it grows into the facts that screens show: constant memory, each byte read once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hpc_yolo.core.errors import RunError
from hpc_yolo.monitor.trend import Trend
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import (
    AnyEvent,
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    DataStaging,
    EpochEnded,
    Evaluated,
    ImagesReplaced,
    StepLogged,
    TrainingLeft,
    WarningRaised,
)
from hpc_yolo.runs.journal import JournalReader
from hpc_yolo.runs.metrics import total_loss

LAST_WARNINGS = 5
LAST_STEPS = 5
STEPS_A_READ = 64  # of single steps, as many as a trend has points


@dataclass
class RunRecord:
    """What the events so far amount to.

    Attributes:
        started: the start of the newest attempt whose training began.
        newest: the newest event that changes the state of the run.
        causes: number of ended attempts by cause, of those whose training began.
        replaced: the newest count of images that cannot be read any more, by split.
        staging: how far the copies of the images are; None unless an attempt makes them now.
        last_steps: values of the ranks that train now, oldest first.
        save_times: of the last two checkpoints, in seconds since 1970.
    """

    num_events: int = 0
    last_time: float = 0.0
    started: AttemptStarted | None = None
    newest: AttemptStarted | TrainingLeft | AttemptEnded | None = None
    causes: Counter[str] = field(default_factory=Counter)
    staging: DataStaging | None = None
    progress: StepLogged | EpochEnded | None = None
    evaluated: Evaluated | None = None
    best: Evaluated | None = None
    attempts: Attempts = field(default_factory=Attempts)
    replaced: dict[str, ImagesReplaced] = field(default_factory=dict)
    warnings: deque[WarningRaised] = field(default_factory=lambda: deque(maxlen=LAST_WARNINGS))
    last_steps: deque[StepLogged] = field(default_factory=lambda: deque(maxlen=LAST_STEPS))
    save_times: deque[float] = field(default_factory=lambda: deque(maxlen=2))
    loss: Trend = field(default_factory=Trend)
    map50_95: Trend = field(default_factory=Trend)
    images_per_s: Trend = field(default_factory=Trend)

    @property
    def step(self) -> StepLogged | None:
        """Newest values of the ranks that train now."""
        return self.last_steps[-1] if self.last_steps else None

    def add(self, events: Iterable[AnyEvent]) -> None:
        """Add further events, oldest first."""
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
            elif isinstance(event, (AttemptStarted, TrainingLeft, AttemptEnded)):
                self._add_phase(event)
            elif isinstance(event, CheckpointSaved):
                self.save_times.append(event.time)
            elif isinstance(event, DataStaging):
                self.staging = None if event.is_over else event
            elif isinstance(event, ImagesReplaced):
                self.replaced[event.split] = event
            elif isinstance(event, WarningRaised):
                self.warnings.append(event)

    def _add_phase(self, event: AttemptStarted | TrainingLeft | AttemptEnded) -> None:
        """Keep what screens ask of the attempts at every refresh; it changes with few events."""
        self.staging = None
        if isinstance(event, AttemptStarted):
            self.last_steps.clear()
            self.replaced.clear()
        started = self.attempts.started
        self.started = started[-1].started if started else None
        self.newest = None if self.attempts.newest is None else self.attempts.newest.newest
        self.causes = Counter(attempt.cause for attempt in started if attempt.cause)

    def _add_progress(self, event: StepLogged | EpochEnded) -> None:
        self.progress = event
        if isinstance(event, StepLogged):
            self.last_steps.append(event)
            self.images_per_s.add(event.step, event.images_per_s)
        if (loss := total_loss(event.losses)) is not None:
            self.loss.add(event.step, loss)


class RecordReader:
    """Keeps the record of one run up to date. A journal that was replaced is read again."""

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
        """Return True if the journal has changed since it was read, by its size and inode.

        Raises:
            OSError: its state cannot be read.
        """
        try:
            stat = self.run.journal.stat()
        except FileNotFoundError:
            return self._file is not None
        return (stat.st_dev, stat.st_ino) != self._file or stat.st_size != self.size_bytes

    def read(self) -> list[AnyEvent]:
        """Read what is new and return the new events.

        Raises:
            OSError: the journal cannot be read.
            RunError: it has an older format.
        """
        try:
            stat = self.run.journal.stat()
        except FileNotFoundError:
            self._start_over()
            return []
        file = (stat.st_dev, stat.st_ino)
        if self._file is not None and (file != self._file or stat.st_size < self.size_bytes):
            self._start_over()
        try:
            events = self._reader.new_events(self._max_steps)
        except RunError:
            self._file, self.size_bytes = file, stat.st_size
            raise
        self.record.add(events)
        self._file, self.size_bytes = file, stat.st_size
        return events
