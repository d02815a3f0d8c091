"""The start of a task: imports of packages that may be missing, reported once on each node."""

from __future__ import annotations

import contextlib
import platform
import sys
import time

from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.installation import explain_import
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.failures import Failure, write_failure
from hpc_yolo.spec.schema import Spec


def start_task(run: RunDirectory, spec: Spec) -> None:
    """Run this process's rank of the next attempt of `run`; see `run_task`.

    Raises:
        SystemExit: as `run_task`, or a package cannot be imported on this node.
    """
    try:
        from hpc_yolo.training.attempt import run_task  # imports torch and OpenCV
    except Exception as error:
        explained = explain_import(error)
        if explained is None:
            raise
        process = ProcessInfo.from_env(current_environment())
        if process.local_rank == 0:  # the others of its node would report the same
            failure = Failure(
                time=time.time(),
                rank=process.rank,
                host=process.host or platform.node(),
                job_id=process.job_id,
                restart=process.attempt,
                kind=type(explained).__name__,
                message=str(explained),
                traceback="",
                exit_code=explained.exit_code,
                is_echo=False,
            )
            print(failure.text, file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                write_failure(run, failure)
        sys.exit(explained.exit_code)
    run_task(run, spec)
