"""The sweep that a run is a trial of, as the training needs it: its stop rule and its other trials."""

from __future__ import annotations

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.sweep import sweep_of
from hpc_yolo.spec.load import load_resolved_spec
from hpc_yolo.spec.sweep_search import StopSpec


def stop_spec_of(run: RunDirectory) -> StopSpec | None:
    """Return the stop rule of the sweep that `run` is a trial of; None for any other run.

    Raises:
        SpecError: the spec of the sweep cannot be read.
    """
    sweep = sweep_of(run)
    spec = None if sweep is None else load_resolved_spec(sweep.spec).sweep
    return None if spec is None else spec.stop


def other_trials(run: RunDirectory) -> list[RunDirectory]:
    """Return the other trials of the sweep of `run`, those too that have not begun.

    Raises:
        RunError: another version of this program has written the list.
    """
    sweep = sweep_of(run)
    return [] if sweep is None else [sweep.trial(trial.name) for trial in sweep.trials() if trial.name != run.name]
