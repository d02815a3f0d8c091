"""The start of a task: packages that may be missing or of another version, reported once on each node."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import NoReturn

import hpc_yolo
from hpc_yolo.cluster.container import VERSION_VARIABLE
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.collector import collector_paused
from hpc_yolo.core.errors import InstallationError
from hpc_yolo.core.installation import explain_import
from hpc_yolo.resilience.before_job import failure_before_training
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.failures import write_failure
from hpc_yolo.spec.schema import Spec


def start_task(run: RunDirectory, spec: Spec) -> None:
    """Run this process's rank of the next attempt of `run`; see `run_task`.

    Raises:
        SystemExit: as `run_task`, or a package cannot be imported on this node.
    """
    try:
        with collector_paused():
            from hpc_yolo.training.attempt import run_task  # imports torch and OpenCV
    except Exception as error:
        explained = explain_import(error)
        if explained is None:
            raise
        _leave_with(run, explained)
    run_task(run, spec)


def require_submitted_version(run: RunDirectory) -> None:
    """Check that the package in an image has the version of the one that submitted `run`; see `cluster.container`.

    Raises:
        SystemExit: it has another.
    """
    submitted = current_environment().get(VERSION_VARIABLE, hpc_yolo.__version__)
    if submitted != hpc_yolo.__version__:
        package = Path(hpc_yolo.__file__).parent
        error = InstallationError(
            f"the container has hpc-yolo {hpc_yolo.__version__} ({package}), and {submitted} submitted this run",
            hint="install that version in the image, or use the submitting one: cluster.container.code: mounted",
        )
        _leave_with(run, error)


def _leave_with(run: RunDirectory, error: InstallationError) -> NoReturn:
    """End this task with `error`, which the first task of its node reports."""
    process = ProcessInfo.from_env(current_environment())
    if process.local_rank == 0:  # the others of its node would report the same
        failure = failure_before_training(process, error)
        print(failure.text, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            write_failure(run, failure)
    sys.exit(error.exit_code)
