"""Measured times of saves and steps, from the journal of a run: the time that a stop needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.core.errors import RunError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, AttemptStarted, CheckpointSaved, StepLogged
from hpc_yolo.runs.journal import JournalReader

LAST_SAVES = 20
MODEL_NAMES = ("best", "epoch")  # what files of weights alone begin with
TAIL_BYTES = 4 * 2**20  # of a journal: hours of training


@dataclass(frozen=True)
class SaveTimes:
    """The longest of a run's last saves of its training state, and its slowest step (0: not known)."""

    save_s: float
    step_s: float
    size_bytes: int


def read_save_times(run: RunDirectory, *, of_another: bool = False) -> SaveTimes | None:
    """Return the times of `run`; None where it has saved nothing yet, or its journal cannot be read.

    Args:
        of_another: the times are for another run, whose first steps differ; see `measured_times`.
    """
    try:
        size_bytes = run.journal.stat().st_size
        # Begins inside a line, which the reader skips.
        events = JournalReader(run.journal, max(0, size_bytes - TAIL_BYTES)).new_events()
    except (OSError, RunError):
        return None
    return measured_times(events, of_another=of_another)


def measured_times(events: Iterable[AnyEvent], *, of_another: bool = False) -> SaveTimes | None:
    """Return the times in `events` (oldest first); None where no training state was saved.

    The first steps of an attempt are slow once (caches, compilation, a cold disk), so they count only where a run has
    no others, and for another run not even there.
    """
    kept = list(events)
    saves = [event for event in kept if isinstance(event, CheckpointSaved) and is_state(event)][-LAST_SAVES:]
    if not saves:
        return None
    first, later = _step_times(kept)
    return SaveTimes(
        save_s=max(event.seconds for event in saves),
        step_s=max(later or ([] if of_another else first), default=0.0),
        size_bytes=saves[-1].size_bytes,
    )


def _step_times(events: Iterable[AnyEvent]) -> tuple[list[float], list[float]]:
    """Return (seconds of a step on every rank as first logged in an attempt, as logged later)."""
    first: list[float] = []
    later: list[float] = []
    is_first = False
    for event in events:
        if isinstance(event, AttemptStarted):
            is_first = True
        elif isinstance(event, StepLogged):
            (first if is_first else later).extend(event.rank_step_s)
            is_first = False
    return first, later


def is_state(event: CheckpointSaved) -> bool:
    """Return True for a training state, False for a file with the model alone."""
    return not Path(event.path).name.startswith(MODEL_NAMES)
