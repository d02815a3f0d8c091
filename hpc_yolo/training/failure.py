"""The failure of a rank: its record for other processes, and the message for the user."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import time
import traceback

import torch

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import HpcYoloError, LeaseError, LostProcessError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.failures import Failure, write_failure

LOST_PEER = re.compile(
    r"connection (was likely )?(closed|reset|refused)|socket (timeout|closed|has timed out)|failed to (send|recv)|"
    r"broken pipe",
    re.IGNORECASE,
)
LOST_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\)")


def report_failure(run: RunDirectory, process: ProcessInfo, error: Exception) -> None:
    """Write the failure of this rank into the run directory and, with several ranks, to stderr.

    A rank without the lease does not write into the run directory: another attempt uses it.
    """
    failure = failure_of(process, error)
    if process.world_size > 1:  # else the error is raised, and printed where it is caught
        with contextlib.suppress(OSError):
            print(failure.text, file=sys.stderr, flush=True)
    if isinstance(error, LeaseError):
        return
    with contextlib.suppress(OSError):  # the directory may have failed; stderr has the message
        write_failure(run, failure)


def failure_of(process: ProcessInfo, error: Exception) -> Failure:
    """Return the record of `error` on this rank."""
    return Failure(
        time=time.time(),
        rank=process.rank,
        host=socket.gethostname() if process.host is None else process.host,
        job_id=process.job_id,
        restart=process.attempt,
        kind=type(error).__name__,
        message=str(error),
        traceback="" if isinstance(error, HpcYoloError) else "".join(traceback.format_exception(error)),
        exit_code=exit_code(error),
        is_echo=is_echo(error),
    )


def exit_code(error: Exception) -> int:
    """Return the exit code of this process after `error`."""
    return error.exit_code if isinstance(error, HpcYoloError) else 1


def explained(error: Exception) -> Exception:
    """Return `error`, or if it only shows that another process has ended, a LostProcessError that says so.

    torch raises the death of a loader worker anywhere.
    """
    if isinstance(error, HpcYoloError) or not isinstance(error, RuntimeError):
        return error
    if worker := LOST_WORKER.search(str(error)):
        return LostProcessError(
            f"a loader worker (process {worker['pids']}) has died: killed from outside, perhaps because memory ran out",
            hint="search the kernel's log for out of memory; set a larger cluster.mem or fewer train.workers",
        )
    if line := next(filter(LOST_PEER.search, str(error).splitlines()), None):
        return LostProcessError(
            f"lost the connection to another rank: {line}",
            hint="hpc-yolo logs RUN --errors shows the rank that ended first",
        )
    return error


def is_echo(error: Exception) -> bool:
    """Return whether `error`, explained, is only the effect of another process that exited."""
    return isinstance(error, (torch.distributed.DistError, LostProcessError))
