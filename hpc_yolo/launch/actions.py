"""What a person does to a run that is there: end its job, put it back into the queue, remove it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.local import local_job_is_alive, machine_id, process_start
from hpc_yolo.cluster.queueing import adopt_lost_jobs
from hpc_yolo.cluster.slurm_output import UNKNOWN
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.resilience.lease import Holder, last_holder
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, address_of, last_chain

WATCH_S = 5.0  # a holder of the run shows a sign of life every two seconds


def cancel_run(run: RunDirectory) -> str:
    """End the newest job of `run`; its tasks save first. A sentence about what was done.

    Raises:
        RunError: nothing runs or waits that could be ended from here.
        ClusterError: Slurm refuses.
    """
    run.require_own()
    alive = _alive_submissions(run)
    submission = alive[0]
    if submission.executor == "slurm":
        job_ids = [other.address for other in alive]
        scheduler.cancel(job_ids)
        return f"{run.name}: job {', '.join(job_ids)} is cancelled; if it was training, it saves and leaves"
    if submission.host != platform.node() or not _is_controller(int(submission.job_id), run):
        raise RunError(
            f"{run.name}: its processes run on {submission.host}, and cannot be ended from here",
            hint=f"type this on {submission.host}",
        )
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(submission.job_id), signal.SIGTERM)  # submitit's controller passes it on to every task
    return f"{run.name}: its processes are asked to save and leave"


def requeue_run(run: RunDirectory) -> str:
    """Put the running job of `run` back into the queue; its tasks save first. A sentence about what was done.

    Raises:
        RunError: there is no job of Slurm's that runs or waits.
        ClusterError: Slurm refuses.
    """
    run.require_own()
    submission = _alive_submissions(run)[0]
    if submission.executor != "slurm":
        raise RunError(f"{run.name}: only jobs of Slurm have a queue", hint=f"hpc-yolo cancel {run.path}")
    scheduler.requeue(submission.address)
    return f"{run.name}: job {submission.job_id} saves, leaves and is queued again"


def remove_run(run: RunDirectory, *, watch_s: float = WATCH_S) -> None:
    """Remove the run directory with everything in it, checkpoints too. It is moved out of the way first.

    Args:
        watch_s: how long to look for a sign of life where nothing else tells.

    Raises:
        RunError: it is no run directory, or its training may live.
        SchedulerUnavailable: Slurm does not say whether its job lives.
    """
    if run.path.is_symlink() or not run.exists:
        raise RunError(f"{run.path} is no run directory", hint="hpc-yolo list shows the runs there are")
    run.require_own()
    adopt_lost_jobs(run)
    for submission in _newest_submissions(run):
        if _is_alive(submission, run):
            words = f"{run.name}: job {submission.job_id} is queued or runs"
            raise RunError(words, hint=f"end it first: hpc-yolo cancel {run.path}")
    holder = last_holder(run)
    if holder is not None and _may_live(run, holder, watch_s):
        raise RunError(f"{run.name}: {holder.name} is training it", hint="end that first")
    doomed = run.path.with_name(f".{run.path.name}.removed-{os.getpid()}")
    try:
        run.path.rename(doomed)  # at once, so that nobody finds half of it
        shutil.rmtree(doomed)
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be removed: {error.strerror}") from error


def _newest_submissions(run: RunDirectory) -> list[Submission]:
    """Those whose jobs may be alive, the first to run first."""
    return last_chain(run)[-2:]


def _alive_submissions(run: RunDirectory) -> list[Submission]:
    """Those whose jobs wait or run, the first to run first; at least one.

    Raises:
        RunError: there is none.
    """
    adopt_lost_jobs(run)
    submissions = _newest_submissions(run)
    if not submissions:
        raise RunError(f"{run.path}: nothing was submitted there", hint="hpc-yolo list shows the runs there are")
    alive = [submission for submission in submissions if _is_alive(submission, run)]
    if not alive:
        over = f"{run.name}: job {submissions[-1].job_id} is over already"
        raise RunError(over, hint=f"go on with: hpc-yolo resume {run.path}")
    return alive


def _is_alive(submission: Submission, run: RunDirectory) -> bool:
    """Whether the job waits or runs.

    Raises:
        SchedulerUnavailable: Slurm does not say.
    """
    if submission.executor == "slurm":
        state = scheduler.job_states([submission.address]).get(submission.address)
        return state is not None and state.is_alive
    if submission.executor != "local":
        return False
    if submission.host == platform.node():
        return _is_controller(int(submission.job_id), run)
    return local_job_is_alive(submission.job_id, submission.host)


def _is_controller(pid: int, run: RunDirectory) -> bool:
    """Whether process `pid` of this machine is the one that watches over `run`: numbers are given again."""
    try:
        words: Sequence[bytes] = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return process_start(pid) is not None and str(run.jobs).encode() in words


def _may_live(run: RunDirectory, holder: Holder, watch_s: float) -> bool:
    """Whether the attempt that holds the run's lease may still write."""
    if holder.released:
        return False
    if holder.machine == machine_id() and holder.pid_start is not None:
        return process_start(holder.pid) == holder.pid_start
    if holder.job_id is not None and holder.cluster is not None:
        try:
            address = address_of(run, holder.job_id)
            state = scheduler.job_states([address]).get(address)
        except SchedulerUnavailable:
            raise
        except ClusterError:
            state = None
        if state is not None and state.state != UNKNOWN:
            return state.is_alive
    time.sleep(watch_s)
    now = last_holder(run)
    return now is not None and not now.released and now.beats != holder.beats
