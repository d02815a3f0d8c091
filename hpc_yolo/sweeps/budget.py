"""The budget of a sweep: hours of GPUs that its trials have taken, by their journals."""

from __future__ import annotations

import time
from collections.abc import Iterable

from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.run_end import recorded_end
from hpc_yolo.runs.time_ledger import make_ledger


def taken_gpu_hours(trials: Iterable[RunDirectory], now: float | None = None) -> float:
    """Return the hours of GPUs, or of tasks without one, that `trials` have taken until `now`, idle or not.

    Args:
        trials: their run directories; one that has not begun took nothing.
        now: in seconds since 1970, for those that run.
    """
    now = time.time() if now is None else now
    taken_s = 0.0
    for run in trials:
        if not run.journal.exists():
            continue
        events = list(read_events(run.journal))
        newest = Attempts(events).newest
        is_running = recorded_end(Attempts(events)) is None and newest is not None and newest.ended is None
        ledger = make_ledger(events, now=now if is_running else None)
        taken_s += ledger.gpu_s or ledger.rank_s
    return taken_s / 3600
