"""Rows of a list for sweeps: each is one row, whose trials are listed below it where it is open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hpc_yolo.core.units import counted
from hpc_yolo.monitor.run_facts import RunFacts

# The state of a sweep is the first of these that a trial has.
STATES = (
    *("running", "saving", "suspended", "requeued", "queued"),
    *("failed", "lost", "unreadable", "stopped", "cancelled", "done"),
)
NOT_BEGUN = "not begun"


def folded(runs: Sequence[RunFacts], sweeps: Mapping[str, int]) -> tuple[list[RunFacts], dict[str, list[RunFacts]]]:
    """Return (a row for each run and each sweep, the trials that have begun by the path of their sweep).

    Args:
        runs: all runs, those of sweeps too.
        sweeps: path of a sweep -> number of its trials.
    """
    trials: dict[str, list[RunFacts]] = {path: [] for path in sweeps}
    rows = []
    for run in runs:
        if run.sweep in trials:
            trials[run.sweep].append(run)
        else:
            rows.append(run)
    return [*rows, *(sweep_row(path, number, trials[path]) for path, number in sweeps.items())], trials


def with_trials(
    rows: Sequence[RunFacts], trials: Mapping[str, list[RunFacts]], opened: Collection[str]
) -> list[RunFacts]:
    """Return `rows` with the trials of the sweeps in `opened` below them, the best first."""
    shown = []
    for row in rows:
        shown.append(row)
        if row.path in opened:
            shown += sorted(trials.get(row.path, ()), key=lambda run: (-fitness(run), run.name))
    return shown


def sweep_row(path: str, num_trials: int, trials: Sequence[RunFacts]) -> RunFacts:
    """Return the row of a sweep; `trials` are those that have begun."""
    states = Counter(trial.state for trial in trials)
    best = max(trials, key=fitness, default=None)
    updated = [trial.updated for trial in trials if trial.updated is not None]
    parts = [f"{states[state]} {state}" for state in STATES if states[state]]
    parts += [f"{num_trials - len(trials)} {NOT_BEGUN}"] if num_trials > len(trials) else []
    detail = f"{counted(num_trials, 'trial')}: {', '.join(parts)}"
    if best is not None and best.metrics is not None:
        detail += f"; best: {best.name}"
    failed = states["failed"] + states["lost"]
    return RunFacts(
        name=Path(path).name,
        path=path,
        state=next((state for state in STATES if states[state]), "unstarted"),
        detail=detail,
        num_trials=num_trials,
        best=None if best is None else best.best,
        updated=max(updated, default=None),
        problems=[f"{counted(failed, 'trial')} failed"] if failed else [],
    )


def fitness(run: RunFacts) -> float:
    """Return the value that orders trials, -1 before the first evaluation."""
    return -1.0 if run.metrics is None else run.metrics.fitness
