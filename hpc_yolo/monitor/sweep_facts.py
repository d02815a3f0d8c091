"""The current facts of a sweep: those of its trials, and which of them is the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.runs.metrics import METRIC_TITLES, Metrics
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.trials import as_text

WAITING, NOT_STARTED, STOPPED_EARLY = "waiting", "not started", "stopped early"
UNDER_WAY = (WAITING, "queued", "requeued", "running", "saving", "suspended")
ORDER = (
    "done",
    STOPPED_EARLY,
    "running",
    "saving",
    "suspended",
    "requeued",
    "queued",
    WAITING,
    "stopped",
    "cancelled",
    "failed",
    "lost",
    NOT_STARTED,
)


class TrialFacts(msgspec.Struct, frozen=True):
    """A trial with its values by dotted field. `run`: its facts, None for one that has not begun."""

    name: str
    values: dict[str, Any]
    state: str
    run: RunFacts | None

    @property
    def metrics(self) -> Metrics | None:
        """The metrics of the best evaluation."""
        return None if self.run is None or self.run.best is None else self.run.best.metrics

    @property
    def rank(self) -> tuple[bool, float]:
        """Sort key: the best trial first, those without an evaluation last."""
        return self.metrics is None, 0.0 if self.metrics is None else -self.metrics.fitness


class SweepFacts(msgspec.Struct, frozen=True):
    """A sweep. `trials` are in the order of their submission."""

    name: str
    path: str
    trials: list[TrialFacts]

    @property
    def counts(self) -> dict[str, int]:
        """The number of trials in each state, in the order of a trial's life."""
        found = Counter(trial.state for trial in self.trials)
        return {state: found[state] for state in sorted(found, key=_position)}

    @property
    def is_under_way(self) -> bool:
        """True while a trial waits or runs."""
        return any(state in UNDER_WAY for state in self.counts)

    @property
    def ranked(self) -> list[TrialFacts]:
        """The trials, the best first."""
        return sorted(self.trials, key=lambda trial: trial.rank)

    @property
    def fields(self) -> list[str]:
        """The fields that the trials set, in their order."""
        return list(dict.fromkeys(field for trial in self.trials for field in trial.values))

    @property
    def heads(self) -> list[str]:
        """The heads of the columns of `rows`."""
        return ["trial", *map(short_name, self.fields), "state", "epoch", *METRIC_TITLES.values()]

    @property
    def rows(self) -> list[list[str]]:
        """A row of texts for each trial, the best first."""
        return [_row(trial, self.fields) for trial in self.ranked]

    @property
    def best(self) -> TrialFacts | None:
        """The trial with the best evaluation; None before the first one."""
        first = min(self.trials, key=lambda trial: trial.rank, default=None)
        return None if first is None or first.metrics is None else first


def short_name(field: str) -> str:
    """Return the last part of a dotted field."""
    return field.rpartition(".")[2]


def sweep_facts(sweep: SweepDirectory, runs: Mapping[str, RunFacts], tasks: Mapping[str, JobState]) -> SweepFacts:
    """Return the facts of `sweep`.

    Args:
        runs: facts of the trials that have begun, by name.
        tasks: Slurm's states of the trials whose tasks wait or run, by name.
    """
    trials = []
    for record in sweep.trials():
        run = runs.get(record.name)
        if run is None:
            state = WAITING if record.name in tasks else NOT_STARTED
        else:
            state = STOPPED_EARLY if run.state == "done" and run.trial_stop is not None else run.state
        values = record.values or sweep.drawn_values(record.name)
        trials.append(TrialFacts(record.name, values, state, run))
    return SweepFacts(sweep.name, str(sweep.path), trials)


def _row(trial: TrialFacts, fields: Sequence[str]) -> list[str]:
    run, metrics = trial.run, trial.metrics
    scores = ["-"] * len(METRIC_TITLES) if metrics is None else [f"{value:.3f}" for value in metrics.values()]
    epoch = "-" if run is None or run.epoch is None else f"{run.epoch + 1}/{run.epochs}"
    values = [as_text(trial.values.get(field, "-")) for field in fields]
    return [trial.name, *values, trial.state, epoch, *scores]


def _position(state: str) -> int:
    return ORDER.index(state) if state in ORDER else len(ORDER)
