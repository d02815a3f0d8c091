"""The state that all ranks go on from: rank 0 says which one is the newest that is whole."""

from __future__ import annotations

from collections.abc import Callable

from hpc_yolo.checkpoint import TrainingState, read_state
from hpc_yolo.checkpoint.store import newest_state, state_path
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, WarningRaised

NOTHING_SAVED = (-1.0, -1.0)


def read_newest_state(run: RunDirectory, world: World, tell: Callable[[AnyEvent], None]) -> TrainingState | None:
    """The newest whole state of `run`, the same on every rank; None where nothing was saved.

    Raises:
        CheckpointError: states were saved and none is whole.
    """
    state = newest_state(run, lambda words: tell(WarningRaised(message=words))) if world.is_main else None
    own = NOTHING_SAVED if state is None else (float(state.progress.attempt), float(state.progress.step))
    attempt, step = world.gather_figures(own)[0]
    if (attempt, step) == NOTHING_SAVED:
        return None
    return state or read_state(state_path(run, int(attempt), int(step)))
