"""Everything that a report shows of a run, read from its directory. A missing file leaves out its part only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import read_struct
from hpc_yolo.core.text import printable
from hpc_yolo.monitor.trend import median
from hpc_yolo.plots.labels import LabelStatistics
from hpc_yolo.plots.results import Results
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import (
    AnyEvent,
    EpochEnded,
    Evaluated,
    StepLogged,
    WarningRaised,
)
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.stages import StageRecord, read_stages
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.runs.time_ledger import Ledger, make_ledger


@dataclass(frozen=True)
class ReportFacts:
    """One run. `num_unread`: lines of the journal that cannot be read here. `origin`: from where it was submitted."""

    run: RunDirectory
    label: str
    events: tuple[AnyEvent, ...]
    num_unread: int
    spec_text: str
    origin: dict[str, Any]
    packages: tuple[str, ...]
    ledger: Ledger
    stages: tuple[StageRecord, ...]
    results: Results | None
    labels: LabelStatistics | None
    mosaics: bytes
    pairs: bytes

    @cached_property
    def spec(self) -> dict[str, object]:
        """Fields of the spec under dotted names; none where it is not YAML."""
        try:
            return dict(_flat(yaml.safe_load(self.spec_text), ""))
        except yaml.YAMLError:
            return {}

    @cached_property
    def attempts(self) -> Attempts:
        """Attempts of the run."""
        return Attempts(self.events)

    @cached_property
    def evaluations(self) -> tuple[Evaluated, ...]:
        """Evaluations of the run."""
        return tuple(event for event in self.events if isinstance(event, Evaluated))

    @property
    def best(self) -> Evaluated | None:
        """Best evaluation."""
        return next((event for event in reversed(self.evaluations) if event.is_best), None)

    @cached_property
    def steps(self) -> tuple[StepLogged, ...]:
        """Logged steps of the run."""
        return tuple(event for event in self.events if isinstance(event, StepLogged))

    @property
    def last_epoch(self) -> EpochEnded | None:
        """Last epoch that ended."""
        return next((event for event in reversed(self.events) if isinstance(event, EpochEnded)), None)

    @cached_property
    def warnings(self) -> tuple[WarningRaised, ...]:
        """Warnings of the run."""
        return tuple(event for event in self.events if isinstance(event, WarningRaised))

    @property
    def images_per_s(self) -> float | None:
        """Median over the log lines."""
        return median([event.images_per_s for event in self.steps]) if self.steps else None

    @property
    def last_time(self) -> float | None:
        """Of the last event, in seconds since 1970."""
        return max((event.time for event in self.events), default=None)

    @property
    def state(self) -> str:
        """State of the run as recorded in its journal."""
        if not self.events:
            return "not started"
        ended = list(self.attempts)[-1].ended
        if ended is None:
            return "running, or ended without a record"
        cause = f" ({ended.cause})" if ended.cause and ended.cause != ended.outcome else ""
        return f"{ended.outcome}{cause}{', queued again' if ended.requeued else ''}"


def read_facts(run: RunDirectory, label: str) -> ReportFacts:
    """Read the directory of `run`.

    Raises:
        RunError: it cannot be read.
    """
    try:
        content = run.journal.read_bytes() if run.journal.exists() else b""
        events = tuple(read_events(run.journal))
        num_lines = sum(1 for line in content.split(b"\n") if line.strip())
        submitted = [submission.time for submission in all_submissions(run) if submission.after is None]
        return ReportFacts(
            run=run,
            label=label,
            events=events,
            num_unread=max(num_lines - len(events), 0),
            spec_text=_bytes(run.spec).decode(errors="replace"),
            origin=_json_object(_bytes(run.origin)),
            packages=tuple(_bytes(run.packages).decode(errors="replace").split()),
            ledger=make_ledger(events, submitted),
            stages=tuple(sorted(read_stages(run), key=lambda record: record.began)),
            results=read_struct(run.evaluation, Results),
            labels=read_struct(run.labels, LabelStatistics),
            mosaics=_bytes(run.mosaics),
            pairs=_bytes(run.pairs),
        )
    except OSError as error:
        raise RunError(
            f"{error.filename or run.path}: cannot be read: {error.strerror or error}",
            hint="run directories are readable by their owner only: ask the owner for a report",
        ) from error


def unique_labels(runs: Sequence[RunDirectory]) -> list[str]:
    """Return the names of runs; the paths of those that share a name. Bytes that are not text become escapes."""
    names = [run.name for run in runs]
    return [printable(run.name if names.count(run.name) == 1 else str(run.path)) for run in runs]


def spec_differences(runs: Sequence[ReportFacts]) -> list[list[str]]:
    """Return a row for each field of the spec whose value differs: the field and its value in each of `runs`."""
    fields = sorted({field for run in runs for field in run.spec} - {"name"})
    rows = [[field, *(_value_text(run.spec.get(field)) for run in runs)] for field in fields]
    return [row for row in rows if len(set(row[1:])) > 1]


def _flat(value: object, prefix: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and (value or not prefix):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


def _value_text(value: object) -> str:
    return json.dumps(value, default=str) if not isinstance(value, str) else value


def _bytes(path: Path) -> bytes:
    """Return the content of `path`; nothing where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
