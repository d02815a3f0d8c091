"""The state from which all ranks resume: the newest complete one that rank 0 finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpc_yolo.checkpoint import TrainingState, read_state
from hpc_yolo.checkpoint.store import attempt_and_step, is_state, newest_state, state_path
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, CheckpointSaved, WarningRaised
from hpc_yolo.runs.journal import read_events

NOTHING_SAVED = (-1, -1)


def read_newest_state(run: RunDirectory, world: World, emit: Callable[[AnyEvent], None]) -> TrainingState | None:
    """Return the newest complete state of `run`, the same on every rank; None if nothing was saved.

    Raises:
        CheckpointError: states were saved and none is complete, or none is there any more.
    """
    state = newest_state(run, lambda message: emit(WarningRaised(message=message))) if world.is_main else None
    if world.is_main and state is None:
        _require_nothing_saved(run)
    found = NOTHING_SAVED if state is None else attempt_and_step(state.path)
    attempt, step = map(int, world.gather_numbers(found)[0])
    if (attempt, step) == NOTHING_SAVED:
        return None
    return state or read_state(state_path(run, attempt, step))


def _require_nothing_saved(run: RunDirectory) -> None:
    """Check that `run`, which has no state, has lost none: its training would begin again without notice.

    Raises:
        CheckpointError: the journal has the save of a state.
    """
    saved = (event for event in read_events(run.journal) if isinstance(event, CheckpointSaved))
    steps = [event.step for event in saved if is_state(Path(event.path))]
    if steps:
        raise CheckpointError(
            f"{run.checkpoints} has no state any more, and this run has saved its last one after step {steps[-1]}",
            hint=f"bring it back into {run.checkpoints}, or start again under another name",
        )
