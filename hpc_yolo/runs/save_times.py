"""How long saving takes and a step lasts, as a run's journal has them: what a stop needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, CheckpointSaved, StepLogged
from hpc_yolo.runs.journal import JournalReader

LAST_SAVES = 20
MODEL_NAMES = ("best", "epoch")  # what files of weights alone begin with
TAIL_BYTES = 4 * 2**20  # of a journal: hours of training


@dataclass(frozen=True)
class SaveTimes:
    """The longest of a run's last saves of its training state, and its slowest step (0: none was logged)."""

    save_s: float
    step_s: float
    size_bytes: int


def read_save_times(run: RunDirectory) -> SaveTimes | None:
    """The figures of `run`; None where it has saved nothing yet, or its journal cannot be read."""
    try:
        size_bytes = run.journal.stat().st_size
        # Begins inside a line, which the reader passes over.
        events = JournalReader(run.journal, max(0, size_bytes - TAIL_BYTES)).new_events()
    except OSError:
        return None
    return measured_times(events)


def measured_times(events: Iterable[AnyEvent]) -> SaveTimes | None:
    """The figures that `events` (oldest first) have; None where no training state was saved."""
    kept = list(events)
    saves = [event for event in kept if isinstance(event, CheckpointSaved) and _is_state(event)][-LAST_SAVES:]
    if not saves:
        return None
    steps = [step_s for event in kept if isinstance(event, StepLogged) for step_s in event.rank_step_s]
    return SaveTimes(
        save_s=max(event.seconds for event in saves),
        step_s=max(steps, default=0.0),
        size_bytes=saves[-1].size_bytes,
    )


def _is_state(event: CheckpointSaved) -> bool:
    return not Path(event.path).name.startswith(MODEL_NAMES)
