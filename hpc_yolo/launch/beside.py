"""Commands that a batch script runs beside its tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.sweep import run_in_job

POLL_S = 0.5


def same_parent() -> Callable[[], bool]:
    """Return a function that is true while the process lives that has started this one."""
    parent = os.getppid()
    return lambda: os.getppid() == parent


def run_beside(path: Path, environ: Mapping[str, str], is_needed: Callable[[], bool]) -> RunDirectory | None:
    """Return the run that this job trains, once its directory exists: that of a trial is made by another command.

    Args:
        path: the argument of the tasks; see `run_in_job`.
        environ: of this process.
        is_needed: False when the batch script has ended.

    Returns:
        None where there is no run when the batch script ends.
    """
    run = run_in_job(path, environ)
    while not run.exists and is_needed():
        time.sleep(POLL_S)
    return run if run.exists else None
