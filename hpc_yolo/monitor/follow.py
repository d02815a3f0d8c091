"""Watching one run to its end: its journal drawn as it grows, its warnings, and the first rank that failed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.core.text import harmless
from hpc_yolo.core.units import short_time
from hpc_yolo.monitor.console import data_console
from hpc_yolo.monitor.progress import shown_cursor_after_sigterm
from hpc_yolo.monitor.tui.view import results_table
from hpc_yolo.runs import logs
from hpc_yolo.runs.attempts import Attempts, starts_in
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import EventLines, losses_text, metrics_text
from hpc_yolo.runs.events import (
    AnchorsChecked,
    AnyEvent,
    AttemptEnded,
    AttemptStarted,
    Cause,
    EpochEnded,
    Evaluated,
    ImagesCached,
    ImagesReplaced,
    StepLogged,
    TrialStopped,
    WarningRaised,
    WeightsLoaded,
)
from hpc_yolo.runs.failures import Failure, first_failure
from hpc_yolo.runs.journal import JournalReader, read_events
from hpc_yolo.runs.submissions import last_chain

POLL_S = 0.2
FAILURE_GRACE_S = 10.0
OUTPUT_LINES = 10
INTERRUPTED = 130
ALWAYS_SHOWN = AttemptStarted, ImagesCached, AnchorsChecked, WeightsLoaded, TrialStopped, WarningRaised, ImagesReplaced


def follow(run: RunDirectory, job: JobWatch, *, since: float = 0.0, quiet: bool = False) -> int:
    """Show `run` until `job` ends, and return the exit code: 0 finished, 130 stopped before its end.

    Args:
        since: events before this time (seconds since 1970) belong to earlier submissions.
        quiet: draw nothing while it runs.

    Raises:
        TrainingError: the job failed; the message is that of the first rank that did.
    """
    reader, own = JournalReader(run.journal), set[int]()
    job_ids = {submission.job_id for submission in last_chain(run)}
    console = data_console()
    attempts = Attempts()
    interrupted = False
    with shown_cursor_after_sigterm(), RunDisplay(console, quiet=quiet) as display:
        alive = True
        while alive:
            try:
                alive = job.is_alive()
                events = list(_of_jobs(reader.new_events(), job_ids, since, own))
                for event in events:
                    attempts.add(event)
                display.show(events)
                if alive and attempts.newest is not None and not attempts.newest.goes_on:
                    alive = not job.is_elsewhere()
                _stop_peers_of_a_failed_rank(run, job, since)
                time.sleep(POLL_S if alive else 0)
            except KeyboardInterrupt:
                if not job.stop():
                    console.print("no longer following; the job continues")
                    return 0
                console.print("stopping after this step, the state is being saved; Ctrl-C again leaves at once")
                _wait_for_end(job)
                interrupted = alive = True  # read once more, for its last events
    ended = None if attempts.newest is None else attempts.newest.ended
    if ended is None and job.was_cancelled():
        console.print(f"{run.name} was cancelled; submit the spec again to continue")
        return INTERRUPTED
    if ended is None and interrupted:
        console.print("stopped before the first step; submit the spec again to begin")
        return INTERRUPTED
    return conclude(run, ended, max(since, attempts.end_before_newest), console)


def _of_jobs(events: Iterable[AnyEvent], job_ids: Collection[str], since: float, own: set[int]) -> Iterator[AnyEvent]:
    """Yield the events `since` then, and those of attempts of the jobs: a node's clock may be behind.

    Args:
        own: attempts of the jobs so far, to which new ones are added.
    """
    for event in events:
        if isinstance(event, AttemptStarted) and starts_in(event, job_ids):
            own.add(event.attempt)
        if event.time >= since or event.attempt in own:
            yield event


def conclude(run: RunDirectory, ended: AttemptEnded | None, since: float, console: Console) -> int:
    """Print how the job ended, and return the exit code.

    Raises:
        TrainingError: it failed.
    """
    if ended is not None and ended.outcome == AttemptEnded.FINISHED:
        show_results(run, console)
        return 0
    if ended is not None and ended.outcome == AttemptEnded.STOPPED:
        console.print(f"stopped by {ended.detail} at step {ended.step}; submit the spec again to continue from there")
        return INTERRUPTED
    if ended is not None and ended.cause not in ("", Cause.ERROR, Cause.STALLED):
        raise TrainingError(ended.detail)
    failure = first_failure(run, since)
    if failure is None and ended is not None:
        raise TrainingError(ended.detail)
    if failure is None:
        raise TrainingError(
            f"the job ended without a record in its journal; the end of its output:\n{last_output(run)}"
        )
    raise _as_error(failure)


def last_output(run: RunDirectory) -> str:
    """Return the last lines that a task or Slurm printed, and the path of their file."""
    lines, log = logs.last_output(run, OUTPUT_LINES)
    if log is None:
        return f"  (there is none in {run.jobs})"
    return "\n".join([*(f"  {line}" for line in lines), f"  ({log})"])


def show_results(run: RunDirectory, console: Console) -> None:
    """Print the table of the best epoch."""
    events = read_events(run.journal)
    best = next((event for event in reversed(events) if isinstance(event, Evaluated) and event.is_best), None)
    epoch = next((event for event in reversed(events) if isinstance(event, EpochEnded)), None)
    if best is not None:
        console.print(results_table(run, best, epoch), soft_wrap=True)


class RunDisplay:
    """A moving bar on a terminal; in a pipe, one plain line an epoch."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        # One column of text: a terminal that is too narrow cuts its end, but several columns each.
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}{task.fields[values]}"))
        self._progress = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
        self._task: TaskID = self._add_task("waiting for the job to start", None)
        self._lines = EventLines()
        self._started: AttemptStarted | None = None
        self._last_evaluation = ""

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, events: list[AnyEvent]) -> None:
        """Draw what `events` add."""
        if self._quiet:
            return
        for event in events:
            line = self._lines.line(event)
            if isinstance(event, AttemptStarted):
                self._begin(event)
            elif isinstance(event, StepLogged):
                self._advance(event)
            elif isinstance(event, Evaluated):
                self._last_evaluation = metrics_text(event)
            always = isinstance(event, ALWAYS_SHOWN)
            if isinstance(event, AttemptEnded) and event.requeued:
                self._replace_task("waiting for the job to start again", None)
                always = True
            if line is not None and (always or not self._console.is_terminal):
                style = "yellow" if isinstance(event, (WarningRaised, ImagesReplaced)) else None
                self._console.print(harmless(line), style=style, soft_wrap=True, highlight=False)

    def _begin(self, event: AttemptStarted) -> None:
        self._started = event
        self._replace_task(f"epoch {event.epoch + 1}/{event.epochs}", event.epochs * event.steps_per_epoch, event.step)

    def _advance(self, event: StepLogged) -> None:
        if (started := self._started) is None:
            return
        total = started.epochs * started.steps_per_epoch
        values = [f"step {event.step}/{total}", losses_text(event), f"{event.images_per_s:.1f} img/s"]
        values += [self._last_evaluation] if self._last_evaluation else []
        if event.images_per_s > 0:
            # At the speed that was measured: rich's own estimate counts all steps as done since this command began.
            left_s = (total - event.step) * started.batch / event.images_per_s
            values.insert(0, f"{short_time(left_s)} left")
        self._progress.update(
            self._task,
            completed=event.step,
            description=f"epoch {event.epoch + 1}/{started.epochs}",
            values="".join(f"  {value}" for value in values),
        )

    def _replace_task(self, description: str, total: int | None, completed: int = 0) -> None:
        self._progress.remove_task(self._task)
        self._task = self._add_task(description, total, completed)

    def _add_task(self, description: str, total: int | None, completed: int = 0) -> TaskID:
        return self._progress.add_task(description, total=total, completed=completed, values="")


def _stop_peers_of_a_failed_rank(run: RunDirectory, job: JobWatch, since: float) -> None:
    """Stop a job of which one rank has failed, after some seconds in which it may record its own end."""
    failure = first_failure(run, since)
    if failure is not None and time.time() - failure.time > FAILURE_GRACE_S:
        job.stop()


def _wait_for_end(job: JobWatch) -> None:
    while job.is_alive():
        time.sleep(POLL_S)


def _as_error(failure: Failure) -> TrainingError:
    error = TrainingError(failure.text)
    error.exit_code = failure.exit_code
    return error
