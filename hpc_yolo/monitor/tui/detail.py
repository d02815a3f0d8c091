"""The page of one run: read by `DetailReader`, drawn by `detail_lines` as lines that scroll."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
from rich.text import Text

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.units import counted, short_bytes, short_time
from hpc_yolo.monitor.alerts import STRAGGLER_FRACTION, rank_problems, slow_rank
from hpc_yolo.monitor.blocks import bar, plot
from hpc_yolo.monitor.run_facts import TRAINING, RunFacts
from hpc_yolo.monitor.run_record import RecordReader
from hpc_yolo.monitor.trend import Trend, median
from hpc_yolo.monitor.tui.stages import stage_lines
from hpc_yolo.monitor.tui.view import STATE_STYLES
from hpc_yolo.runs.attempts import Attempt
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import three_decimals
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
SHOWN = ("map50", "map50_95")
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
    """Contents of one run's page. `failure`: the error of the first rank that failed in the newest attempt."""

    path: str
    started: AttemptStarted | None = None
    last_steps: tuple[StepLogged, ...] = ()
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[WarningRaised, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)
    failure: str = ""
    error: str = ""


class DetailReader:
    """Reads one run's whole journal, then what is added to it."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._reader = RecordReader(run, max_steps=None)
        self._curves: dict[str, Trend] = {}
        self._events: list[AnyEvent] = []
        self._detail: Detail | None = None

    def read(self) -> Detail:
        """Return the contents of the page as of now."""
        try:
            if self._detail is None or self._detail.error or self._reader.has_news():
                before = self._reader.record
                events = self._reader.read()
                if self._reader.record is not before:  # the journal was replaced
                    self._curves, self._events = {}, []
                for event in events:
                    self._add(event)
                self._detail = self._make_detail()
        except OSError as error:
            self._detail = Detail(str(self._run.path), error=f"{error.filename}: {error.strerror}")
        except RunError as error:
            self._detail = Detail(str(self._run.path), error=error.message)
        return self._detail

    def _add(self, event: AnyEvent) -> None:
        self._events.append(_short(event))
        values: dict[str, float | None] = {}
        if isinstance(event, StepLogged):
            values = {**event.losses, "lr": event.lr, "img/s": event.images_per_s}
        elif isinstance(event, EpochEnded) and not self._curves:
            values = {**event.losses, "lr": event.lr}
        elif isinstance(event, Evaluated):
            values = {METRIC_TITLES[name]: getattr(event.metrics, name) for name in SHOWN}
        for name, value in values.items():
            if value is not None and isinstance(event, (StepLogged, EpochEnded, Evaluated)):
                self._curves.setdefault(name, Trend(CURVE_POINTS)).add(event.step, value)

    def _make_detail(self) -> Detail:
        record = self._reader.record
        began = 0.0 if record.started is None else record.started.time
        failure = first_failure(self._run, max(began, record.attempts.end_before_newest))
        submitted = [submission.time for submission in all_submissions(self._run) if submission.after is None]
        return Detail(
            path=str(self._run.path),
            started=record.started,
            last_steps=tuple(record.last_steps),
            curves={name: (list(curve.steps), list(curve.values)) for name, curve in self._curves.items()},
            attempts=tuple(replace(attempt) for attempt in record.attempts.started),
            warnings=tuple(record.warnings),
            ledger=make_ledger(self._events, submitted),
            failure="" if failure is None else failure.text,
        )


def detail_lines(run: RunFacts, detail: Detail | None, now: float, width: int) -> list[Text]:
    """Return the page of `run` in lines of `width` letters. `detail`: None while it is being read."""
    lines = [*_summary(run, now, width), *stage_lines(run.stages, now, width)]
    if detail is None:
        return [*lines, Text(""), Text("reading its journal", style="dim")]
    if detail.error:
        return [*lines, Text(""), Text(detail.error, style="red")]
    for line in detail.failure.splitlines():
        lines += _wrapped(line, width, "red")
    lines += _curve_lines(detail, width)
    lines += _rank_lines(detail)
    lines += _attempt_lines(_spans(detail.attempts, run, now), detail.ledger, width)
    lines += _ledger_lines(detail.ledger, width)
    if detail.warnings:
        lines += _title("last warnings")
        for event in detail.warnings:
            lines += _wrapped(f"{_clock(event.time)}  {event.message}", width, "")
    return lines


def _summary(run: RunFacts, now: float, width: int) -> list[Text]:
    style = STATE_STYLES.get(run.state, "")
    nodes, tasks = counted(run.num_nodes, "node"), counted(run.tasks_per_node, "task")
    devices = f"{counted(run.gpus_per_node, 'GPU')} a node" if run.gpus_per_node else "CPUs only"
    lines = [
        Text.assemble((run.name, "bold"), "  ", (run.state, style), f"  {run.detail}"),
        Text(run.path, style="dim"),
        Text(
            f"job {run.job_id or '-'} ({run.executor or 'by hand'})  {nodes} x {tasks}, {devices}  "
            f"attempt {run.attempts}{f' ({run.causes_text})' if run.causes else ''}"
        ),
    ]
    if run.fraction_done is not None and run.epoch is not None:
        text = f" {run.fraction_done:4.0%}  epoch {run.epoch + 1}/{run.epochs}  step {run.step}/{run.total_steps}"
        lines.append(Text(bar(run.fraction_done, max(10, min(40, width - len(text)))) + text))
    speed = "-" if run.images_per_s is None else f"{run.images_per_s:.1f}"
    best = "" if run.best_epoch is None else f" (best, epoch {run.best_epoch + 1})"
    metrics = {METRIC_TITLES[name]: None if run.metrics is None else getattr(run.metrics, name) for name in SHOWN}
    scores = "  ".join(f"{title} {three_decimals(value)}" for title, value in metrics.items())
    lines.append(Text(f"loss {three_decimals(run.loss)}  {scores}{best}  {speed} img/s"))
    saved = "" if run.checkpoint_time is None else f"last checkpoint {short_time(now - run.checkpoint_time)} ago"
    lines += [Text("; ".join(filter(None, (run.outlook, saved))))] if run.outlook or saved else []
    return lines + [Text(f"! {problem}", style="bold red") for problem in run.problems]


def _curve_lines(detail: Detail, width: int) -> list[Text]:
    """Draw the curves side by side, as many as fit."""
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
    title = f"{name} {values[-1]:.4g}  ({min(values):.4g} to {max(values):.4g})"
    return [title[:width].ljust(width), *plot(steps, values, width, PLOT_ROWS)]


def _rank_lines(detail: Detail) -> list[Text]:
    """Draw a line for each rank of the newest attempt; those that hold up the others are red."""
    if not detail.last_steps or detail.started is None:
        return []
    step = detail.last_steps[-1]
    total_bytes = detail.started.device_mem_bytes
    memory = "" if total_bytes is None else f", each GPU has {short_bytes(total_bytes)}"
    lines = _title(f"ranks, at step {step.step}{memory}")
    lines += [Text(f"! {problem}", style="bold red") for problem in rank_problems(detail.last_steps)]
    lines.append(
        Text(
            f"{'rank':>5} {'host':18} {'local':>5} {'s/step':>8} {'waiting':>8} {'ready':>6} {'forward':>8} "
            f"{'memory':>10} {'GPU':>5}",
            style="bold",
        )
    )
    typical_s, longest_s = median(step.rank_data_wait_s), max(step.rank_step_s, default=0.0)
    slow = slow_rank(detail.last_steps)
    values = zip(detail.started.ranks, step.rank_step_s, step.rank_data_wait_s, step.rank_mem_bytes, strict=False)
    for rank, step_s, wait_s, mem_bytes in values:
        is_late = longest_s > 0 and wait_s - typical_s > STRAGGLER_FRACTION * longest_s
        forward = f"{step.rank_forward_s[rank.rank]:.3f}" if step.rank_forward_s else "-"
        ready = f"{step.rank_batches_ready[rank.rank]:.1f}" if step.rank_batches_ready else "-"
        use = step.rank_device_use[rank.rank] if step.rank_device_use else None
        text = (
            f"{rank.rank:5} {rank.host:18.18} {rank.local_rank:5} {step_s:8.3f} {wait_s:8.3f} {ready:>6} {forward:>8} "
            f"{short_bytes(mem_bytes):>10} {'-' if use is None else f'{use:.0%}':>5}"
        )
        lines.append(Text(text, style="bold red" if is_late or rank.rank == slow else ""))
    return lines


@dataclass(frozen=True)
class _Span:
    """An attempt from its start to its end, or to its last event; `cause`: why it ended, as shown."""

    attempt: Attempt
    started: AttemptStarted
    end: float
    cause: str

    @property
    def style(self) -> str:
        return CAUSE_STYLES.get(self.cause, OTHER_CAUSE_STYLE)


def _spans(attempts: Sequence[Attempt], run: RunFacts, now: float) -> list[_Span]:
    spans = []
    for attempt in attempts:
        if attempt.started is None:
            continue
        is_running = attempt.ended is None and attempt is attempts[-1] and run.state in (*TRAINING, "suspended")
        end = now if is_running else attempt.end
        cause = RUNNING if is_running else attempt.cause or "no end in the journal"
        spans.append(_Span(attempt, attempt.started, end, cause))
    return spans


def _attempt_lines(spans: Sequence[_Span], ledger: Ledger, width: int) -> list[Text]:
    if not spans:
        return []
    lines = [*_title("attempts, by cause"), _timeline(spans, width)]
    lost_s = {entry.number: entry.seconds.get("lost", 0.0) for entry in ledger.attempts}
    for span in spans:
        started, number = span.started, span.attempt.number
        times = f"{number:4}  {_clock(started.time)}  {short_time(span.end - started.time):>12}"
        size = f"{counted(started.num_nodes, 'node')}, {counted(started.world_size, 'rank')}"
        work = f"steps {started.step}-{span.attempt.last_step}, {size}"
        if lost_s.get(number, 0.0) >= 1:
            work += f", {short_time(lost_s[number])} lost"
        lines.append(Text.assemble(f"{times}  ", (f"{span.cause:14}", span.style), f"  {work}"))
        if span.attempt.ended is not None and span.attempt.ended.detail:
            lines += _wrapped(f"      {span.attempt.ended.detail}", width, "dim")
    return lines


def _timeline(spans: Sequence[_Span], width: int) -> Text:
    """Draw the attempts in one line from the first start to the last event, coloured by cause; waits are dots."""
    begin = spans[0].started.time
    total_s = max(spans[-1].end - begin, 1.0)
    letters, styles = ["·"] * width, [""] * width
    for number, span in enumerate(spans):
        first = min(max(0, int((span.started.time - begin) / total_s * width)), width - 1)
        past = min(max(first + 1, round((span.end - begin) / total_s * width)), width)
        # Two shades, so that neighbours differ without colours too.
        letters[first:past] = "█▓"[number % 2] * (past - first)
        styles[first:past] = [span.style] * (past - first)
    return Text.assemble(*zip(letters, styles, strict=True))


def _ledger_lines(ledger: Ledger, width: int) -> list[Text]:
    """Draw the wall time by kind, up to the last event."""
    total_s = ledger.total_s
    if total_s <= 0:
        return []
    away = f", and {short_time(ledger.away_s)} between jobs, before the next submission" if ledger.away_s >= 1 else ""
    lines = _title("time by kind, up to the last event")
    for kind, seconds in ledger.seconds.items():
        text = f"{kind:12} {short_time(seconds):>14} {seconds / total_s:6.1%}  "
        style = "red" if kind == "lost" and seconds >= 1 else ""
        lines.append(Text(text + bar(seconds / total_s, max(5, min(40, width - len(text)))), style=style))
    return [*lines, *_wrapped(f"{'total':12} {short_time(total_s):>14}{away}", width, "bold")]


def _short(event: AnyEvent) -> AnyEvent:
    """Return what the ledger needs of `event`, in the same size for any number of ranks."""
    if not isinstance(event, StepLogged):
        return event
    longest = {name: [max(getattr(event, name), default=0.0)] for name in ("rank_step_s", "rank_data_wait_s")}
    return msgspec.structs.replace(
        event, **longest, rank_mem_bytes=[], rank_forward_s=[], rank_device_use=[], rank_batches_ready=[]
    )


def _wrapped(text: str, width: int, style: str) -> list[Text]:
    return [Text(line, style=style) for line in textwrap.wrap(text, width, subsequent_indent="      ")]


def _title(text: str) -> list[Text]:
    return [Text(""), Text(text, style="bold underline")]


def _clock(seconds: float) -> str:
    return time.strftime(TIME_FORMAT, time.localtime(seconds))
