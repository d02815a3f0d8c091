"""The state from which all ranks resume: the newest complete one that rank 0 finds."""

from __future__ import annotations

from collections.abc import Callable

from hpc_yolo.checkpoint import TrainingState, read_state
from hpc_yolo.checkpoint.store import attempt_and_step, newest_state, state_path
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, WarningRaised

NOTHING_SAVED = (-1, -1)


def read_newest_state(run: RunDirectory, world: World, emit: Callable[[AnyEvent], None]) -> TrainingState | None:
    """Return the newest complete state of `run`, the same on every rank; None if nothing was saved.

    Raises:
        CheckpointError: states were saved and none is complete.
    """
    state = newest_state(run, lambda message: emit(WarningRaised(message=message))) if world.is_main else None
    found = NOTHING_SAVED if state is None else attempt_and_step(state.path)
    attempt, step = map(int, world.gather_numbers(found)[0])
    if (attempt, step) == NOTHING_SAVED:
        return None
    return state or read_state(state_path(run, attempt, step))
