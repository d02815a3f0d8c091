"""The budget of a sweep: hours of GPUs that its trials have taken, by their journals."""

from __future__ import annotations

from collections.abc import Iterable

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.time_ledger import make_ledger


def taken_gpu_hours(trials: Iterable[RunDirectory]) -> float:
    """Return the hours of GPUs, or of tasks without one, that `trials` have taken, idle or not.

    An attempt counts up to its newest event: the journal does not show whether one without an end still runs.

    Args:
        trials: their run directories; one that has not begun took nothing.
    """
    ledgers = [make_ledger(read_events(run.journal)) for run in trials]
    return sum(ledger.gpu_s or ledger.rank_s for ledger in ledgers) / 3600
