"""How the trials of a search have ended, from their journals."""

from __future__ import annotations

from collections.abc import Iterable

from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.run_end import recorded_end
from hpc_yolo.sweeps.study import Outcome


def outcomes_of(trials: Iterable[RunDirectory]) -> dict[str, Outcome]:
    """Return the outcome of each of `trials` that has ended, by name: its best fitness, or None if it failed.

    One that a person has stopped has not ended: it may go on.
    """
    found = {}
    for run in trials:
        events = read_events(run.journal)
        attempts = Attempts(events)
        end = recorded_end(attempts)
        if end is None or end.is_by_person:
            continue
        scores = [event.metrics.fitness for event in events if isinstance(event, Evaluated)]
        stop = attempts.trial_stop
        found[run.name] = Outcome(
            max(scores, default=None) if end.is_finished else None,
            stopped_after=None if stop is None else stop.epoch + 1,
        )
    return found
