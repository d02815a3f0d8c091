"""The training states in a run directory: their names and order, the newest intact one, and how many are kept.

A state is named by the attempt that saved it and its step, and never overwritten. Their order is that of attempts,
then of steps: clocks of several machines differ, and a state that an orphaned attempt publishes late is older than any
of the attempt that followed it. `last.safetensors` is a link for users; no code here relies on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from hpc_yolo.checkpoint.file import UnknownFormat
from hpc_yolo.checkpoint.state import TrainingState, read_state
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.files import sync_directory
from hpc_yolo.runs.directory import RunDirectory

DAMAGED_SUFFIX = ".damaged"
_NAME = re.compile(r"state-(?P<attempt>\d+)-(?P<step>\d+)\.safetensors")


def state_path(run: RunDirectory, attempt: int, step: int) -> Path:
    """Return the path of the state that `attempt` saves after `step` steps."""
    return run.checkpoints / f"state-{attempt:04d}-{step:09d}.safetensors"


def attempt_and_step(path: Path) -> tuple[int, int]:
    """Return the attempt that saved the state in `path`, and its step."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match["attempt"]), int(match["step"])


def is_state(path: Path) -> bool:
    """Return True if a state has the name of `path`."""
    return _NAME.fullmatch(path.name) is not None


def saved_states(run: RunDirectory) -> list[Path]:
    """Return the paths of all states, newest first; no file is opened."""
    paths = [path for path in run.checkpoints.glob("state-*") if is_state(path)]
    return sorted(paths, key=attempt_and_step, reverse=True)


def newest_state(run: RunDirectory, report: Callable[[str], None]) -> TrainingState | None:
    """Return the newest intact state, or None if nothing was saved; report damaged ones and rename them.

    Raises:
        CheckpointError: states were saved, and none of them is intact.
    """
    damaged: list[tuple[Path, str]] = []
    for path in saved_states(run):
        try:
            state = read_state(path)
        except CheckpointError as error:
            if isinstance(error.__cause__, OSError | UnknownFormat):
                raise  # an error of the file system or the version, not damage
            damaged.append((path, error.message))
            continue
        for spoiled, reason in damaged:
            aside = spoiled.with_name(spoiled.name + DAMAGED_SUFFIX)
            spoiled.rename(aside)
            report(f"{reason}; set aside as {aside.name}, training resumes from step {state.position.step}")
        return state
    if damaged:
        raise CheckpointError(
            f"no checkpoint of this run is intact: {'; '.join(reason for _, reason in damaged)}",
            hint=f"bring one back into {run.checkpoints}, or start again under another name",
        )
    return None


def published(run: RunDirectory, path: Path, keep_last: int) -> None:
    """Point `last` to the durable `path`, and remove all but the `keep_last` newest states."""
    link = run.last.with_name(f".{run.last.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    link.rename(run.last)
    for old in saved_states(run)[keep_last:]:
        if old != path:
            old.unlink(missing_ok=True)
    sync_directory(run.checkpoints)
