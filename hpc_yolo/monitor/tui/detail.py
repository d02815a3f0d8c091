"""Everything about one run: read by `DetailReader`, drawn by `detail_lines` as one long page that a person scrolls."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
from rich.text import Text

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.units import counted
from hpc_yolo.monitor.alerts import STRAGGLER_SHARE, rank_problems, slow_rank
from hpc_yolo.monitor.run_record import RecordReader, Trend
from hpc_yolo.monitor.snapshot import TRAINING, RunFacts
from hpc_yolo.monitor.tui.marks import bar, median, plot, short_bytes, short_time
from hpc_yolo.monitor.tui.view import STATE_STYLES
from hpc_yolo.runs.attempts import Attempt
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import figure
from hpc_yolo.runs.events import AnyEvent, AttemptStarted, Cause, EpochEnded, Evaluated, StepLogged, WarningRaised
from hpc_yolo.runs.failures import first_failure
from hpc_yolo.runs.metrics import METRIC_TITLES
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.runs.time_ledger import Ledger, make_ledger

CURVE_POINTS = 1024
PLOT_ROWS = 5
MIN_PLOT_COLUMNS = 36
TIME_FORMAT = "%m-%d %H:%M:%S"
RUNNING = "running"
CAUSE_STYLES = {
    RUNNING: "green",
    Cause.FINISHED: "bold green",
    Cause.PREEMPTED: "yellow",
    Cause.TIME_LIMIT: "cyan",
    Cause.CANCELLED: "magenta",
    Cause.INTERRUPTED: "magenta",
}
OTHER_CAUSE_STYLE = "red"


@dataclass(frozen=True)
class Detail:
    """What there is to say of one run. `failure`: the words of the first rank that failed in the newest attempt."""

    path: str
    started: AttemptStarted | None = None
    last_steps: tuple[StepLogged, ...] = ()
    evaluated: Evaluated | None = None
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[WarningRaised, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)
    failure: str = ""
    error: str = ""


class DetailReader:
    """Reads all of one run's journal, and afterwards what is added to it."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._reader = RecordReader(run, max_steps=None)
        self._curves: dict[str, Trend] = {}
        self._events: list[AnyEvent] = []
        self._detail: Detail | None = None

    def read(self) -> Detail:
        """The run as its journal has it now."""
        try:
            if self._detail is None or self._reader.has_news():
                before = self._reader.record
                events = self._reader.read()
                if self._reader.record is not before:  # another journal stands in its place
                    self._curves, self._events = {}, []
                for event in events:
                    self._add(event)
                self._detail = self._made()
        except OSError as error:
            self._detail = Detail(str(self._run.path), error=f"{error.filename}: {error.strerror}")
        except RunError as error:
            self._detail = Detail(str(self._run.path), error=error.message)
        return self._detail

    def _add(self, event: AnyEvent) -> None:
        self._events.append(_short(event))
        figures: dict[str, float | None] = {}
        if isinstance(event, StepLogged):
            figures = {**event.losses, "lr": event.lr, "img/s": event.images_per_s}
        elif isinstance(event, EpochEnded) and not self._curves:
            figures = {**event.losses, "lr": event.lr}
        elif isinstance(event, Evaluated):
            figures = {METRIC_TITLES[name]: getattr(event.metrics, name) for name in ("map50", "map50_95")}
        for name, value in figures.items():
            if value is not None and isinstance(event, (StepLogged, EpochEnded, Evaluated)):
                self._curves.setdefault(name, Trend(CURVE_POINTS)).add(event.step, value)

    def _made(self) -> Detail:
        record = self._reader.record
        since = 0.0 if record.started is None else record.started.time
        failure = first_failure(self._run, since)
        submitted = [submission.time for submission in all_submissions(self._run) if submission.after is None]
        return Detail(
            path=str(self._run.path),
            started=record.started,
            last_steps=tuple(record.last_steps),
            evaluated=record.evaluated,
            curves={name: (list(curve.steps), list(curve.values)) for name, curve in self._curves.items()},
            attempts=tuple(replace(attempt) for attempt in record.attempts.started),
            warnings=tuple(record.warnings),
            ledger=make_ledger(self._events, submitted),
            failure="" if failure is None else failure.text,
        )


def detail_lines(run: RunFacts, detail: Detail | None, now: float, width: int) -> list[Text]:
    """The page about `run`, in lines of `width` letters. `detail`: None while it is being read."""
    lines = _summary(run, now, width)
    if detail is None:
        return [*lines, Text(""), Text("reading its journal", style="dim")]
    if detail.error:
        return [*lines, Text(""), Text(detail.error, style="red")]
    for words in detail.failure.splitlines():
        lines += _wrapped(words, width, "red")
    lines += _curve_lines(detail, width)
    lines += _rank_lines(detail)
    lines += _attempt_lines(detail.attempts, detail.ledger, run, now, width)
    lines += _ledger_lines(detail.ledger, width)
    if detail.warnings:
        lines += _title("last warnings")
        for event in detail.warnings:
            lines += _wrapped(f"{_clock(event.time)}  {event.message}", width, "")
    return lines


def _summary(run: RunFacts, now: float, width: int) -> list[Text]:
    style = STATE_STYLES.get(run.state, "")
    causes = run.causes_words
    nodes, tasks = counted(run.num_nodes, "node"), counted(run.tasks_per_node, "task")
    devices = f"{counted(run.gpus_per_node, 'GPU')} a node" if run.gpus_per_node else "CPUs only"
    lines = [
        Text.assemble((run.name, "bold"), "  ", (run.state, style), f"  {run.detail}"),
        Text(run.path, style="dim"),
        Text(
            f"job {run.job_id or '-'} ({run.executor or 'by hand'})  {nodes} x {tasks}, {devices}  "
            f"attempt {run.attempts}{f' ({causes})' if causes else ''}"
        ),
    ]
    if run.total_steps and run.step is not None and run.epoch is not None:
        share = run.step / run.total_steps
        words = f" {share:4.0%}  epoch {run.epoch + 1}/{run.epochs}  step {run.step}/{run.total_steps}"
        lines.append(Text(bar(share, max(10, min(40, width - len(words)))) + words))
    speed = "-" if run.images_per_s is None else f"{run.images_per_s:.1f}"
    best = "" if run.best_epoch is None else f" (best, epoch {run.best_epoch + 1})"
    lines.append(
        Text(
            f"loss {figure(run.loss)}  mAP50 {figure(run.metric('map50'))}  "
            f"mAP50-95 {figure(run.metric('map50_95'))}{best}  {speed} img/s"
        )
    )
    saved = "" if run.saved is None else f"last checkpoint {short_time(now - run.saved)} ago"
    lines += [Text("; ".join(filter(None, (run.outlook, saved))))] if run.outlook or saved else []
    return lines + [Text(f"! {problem}", style="bold red") for problem in run.problems]


def _curve_lines(detail: Detail, width: int) -> list[Text]:
    """The curves beside each other, as many as fit."""
    if not detail.curves:
        return []
    per_row = max(1, min(4, (width + 2) // (MIN_PLOT_COLUMNS + 2)))
    plot_width = (width + 2) // per_row - 2
    names = list(detail.curves)
    lines = _title("curves, over steps")
    for first in range(0, len(names), per_row):
        blocks = [_curve_block(name, *detail.curves[name], plot_width) for name in names[first : first + per_row]]
        lines += [Text("  ".join(row), style="") for row in zip(*blocks, strict=True)]
    return lines


def _curve_block(name: str, steps: Sequence[int], values: Sequence[float], width: int) -> list[str]:
    words = f"{name} {values[-1]:.4g}  ({min(values):.4g} to {max(values):.4g})"
    return [words[:width].ljust(width), *plot(steps, values, width, PLOT_ROWS)]


def _rank_lines(detail: Detail) -> list[Text]:
    """A line a rank of the newest attempt; those that hold up the others stand out."""
    if not detail.last_steps or detail.started is None:
        return []
    step = detail.last_steps[-1]
    total_bytes = detail.started.device_mem_bytes
    memory = "" if total_bytes is None else f", each GPU has {short_bytes(total_bytes)}"
    lines = _title(f"ranks, at step {step.step}{memory}")
    lines += [Text(f"! {problem}", style="bold red") for problem in rank_problems(detail.last_steps)]
    lines.append(
        Text(
            f"{'rank':>5} {'host':18} {'local':>5} {'s/step':>8} {'waiting':>8} {'forward':>8} "
            f"{'memory':>10} {'GPU':>5}",
            style="bold",
        )
    )
    typical_s, longest_s = median(step.rank_data_wait_s), max(step.rank_step_s, default=0.0)
    slow = slow_rank(detail.last_steps)
    figures = zip(detail.started.ranks, step.rank_step_s, step.rank_data_wait_s, step.rank_mem_bytes, strict=False)
    for place, step_s, wait_s, mem_bytes in figures:
        is_late = longest_s > 0 and wait_s - typical_s > STRAGGLER_SHARE * longest_s
        forward = f"{step.rank_forward_s[place.rank]:.3f}" if step.rank_forward_s else "-"
        use = step.rank_device_use[place.rank] if step.rank_device_use else None
        words = (
            f"{place.rank:5} {place.host:18.18} {place.local_rank:5} {step_s:8.3f} {wait_s:8.3f} {forward:>8} "
            f"{short_bytes(mem_bytes):>10} {'-' if use is None else f'{use:.0%}':>5}"
        )
        lines.append(Text(words, style="bold red" if is_late or place.rank == slow else ""))
    return lines


def _attempt_lines(attempts: Sequence[Attempt], ledger: Ledger, run: RunFacts, now: float, width: int) -> list[Text]:
    if not attempts:
        return []
    lines = [*_title("attempts, by cause"), _timeline(attempts, run, now, width)]
    lost_s = {entry.number: entry.seconds.get("lost", 0.0) for entry in ledger.attempts}
    for attempt in attempts:
        cause = _cause(attempt, run, is_newest=attempt is attempts[-1])
        end = _end(attempt, now, is_running=cause == RUNNING)
        words = f"{attempt.number:4}  {_clock(attempt.training_begin)}  {short_time(end - attempt.training_begin):>12}"
        place = f"steps {attempt.first_step}-{attempt.last_step}"
        if (start := attempt.started) is not None:
            place += f", {counted(start.num_nodes, 'node')}, {counted(start.world_size, 'rank')}"
        if lost_s.get(attempt.number, 0.0) >= 1:
            place += f", {short_time(lost_s[attempt.number])} lost"
        style = CAUSE_STYLES.get(cause, OTHER_CAUSE_STYLE)
        lines.append(Text.assemble(f"{words}  ", (f"{cause:14}", style), f"  {place}"))
        if attempt.detail:
            lines += _wrapped(f"      {attempt.detail}", width, "dim")
    return lines


def _timeline(attempts: Sequence[Attempt], run: RunFacts, now: float, width: int) -> Text:
    """From the first start to the last sign of life, in one line: attempts coloured by their ends, waits as dots."""
    last = attempts[-1]
    ends = [_end(item, now, is_running=_cause(item, run, is_newest=item is last) == RUNNING) for item in attempts]
    begin = attempts[0].training_begin
    span_s = max(ends[-1] - begin, 1.0)
    letters, styles = ["·"] * width, [""] * width
    for number, (attempt, end) in enumerate(zip(attempts, ends, strict=True)):
        first = min(max(0, int((attempt.training_begin - begin) / span_s * width)), width - 1)
        past = min(max(first + 1, round((end - begin) / span_s * width)), width)
        cause = _cause(attempt, run, is_newest=attempt is last)
        # Two shades, so that neighbours can be told apart without colours too.
        letters[first:past] = "█▓"[number % 2] * (past - first)
        styles[first:past] = [CAUSE_STYLES.get(cause, OTHER_CAUSE_STYLE)] * (past - first)
    return Text.assemble(*zip(letters, styles, strict=True))


def _ledger_lines(ledger: Ledger, width: int) -> list[Text]:
    """Where the wall seconds went, up to the last event."""
    total_s = ledger.total_s
    if total_s <= 0:
        return []
    away = f", and {short_time(ledger.away_s)} in which nobody had submitted it" if ledger.away_s >= 1 else ""
    lines = _title("where its time went, up to its last event")
    for kind, seconds in ledger.seconds.items():
        words = f"{kind:12} {short_time(seconds):>14} {seconds / total_s:6.1%}  "
        style = "red" if kind == "lost" and seconds >= 1 else ""
        lines.append(Text(words + bar(seconds / total_s, max(5, min(40, width - len(words)))), style=style))
    return [*lines, *_wrapped(f"{'in all':12} {short_time(total_s):>14}{away}", width, "bold")]


def _short(event: AnyEvent) -> AnyEvent:
    """`event` as the ledger needs it, the same size for any number of ranks."""
    if not isinstance(event, StepLogged):
        return event
    longest = {name: [max(getattr(event, name), default=0.0)] for name in ("rank_step_s", "rank_data_wait_s")}
    return msgspec.structs.replace(event, **longest, rank_mem_bytes=[], rank_forward_s=[], rank_device_use=[])


def _cause(attempt: Attempt, run: RunFacts, *, is_newest: bool) -> str:
    if attempt.ended is not None:
        return attempt.cause
    return RUNNING if is_newest and run.state in TRAINING else "no word of its end"


def _end(attempt: Attempt, now: float, *, is_running: bool) -> float:
    return now if attempt.ended is None and is_running else attempt.end


def _wrapped(words: str, width: int, style: str) -> list[Text]:
    return [Text(line, style=style) for line in textwrap.wrap(words, width, subsequent_indent="      ")]


def _title(words: str) -> list[Text]:
    return [Text(""), Text(words, style="bold underline")]


def _clock(seconds: float) -> str:
    return time.strftime(TIME_FORMAT, time.localtime(seconds))
