"""Carry out what follows an attempt: put the run back into the queue, or keep Slurm from starting it again.

`attempt_end` decides what follows. Rank 0 calls this module when it leaves, and the batch script after its tasks
(`hpc-yolo after-job`), for tasks that ended before they could record it or that have no `scontrol`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_output import JobRecord
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.resilience.attempt_end import AttemptEnd, FollowUp
from hpc_yolo.resilience.chain import cancel_successor, ensure_successor
from hpc_yolo.resilience.lease import last_holder
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.spec.schema import ClusterSpec

NOT_QUEUED = "not queued again"  # before the reason, in the detail of an end


def slurm_job_id(process: ProcessInfo) -> str | None:
    """Return the Slurm job that this task belongs to; None outside Slurm."""
    return None if process.launcher == "submitit-local" else process.job_id


def own_job_record(process: ProcessInfo) -> JobRecord | None:
    """Return the controller's record of this task's job; None outside Slurm, and where it does not answer."""
    job_id = slurm_job_id(process)
    try:
        return None if job_id is None else scheduler.job_record(job_id)
    except ClusterError:
        return None


def requeue_mode(run: RunDirectory, process: ProcessInfo, cluster: ClusterSpec) -> str:
    """Return how the run of this task's job continues after an interruption: requeue, expedite, chain or off.

    Where the spec leaves it open, `submit` has chosen; a job that was submitted otherwise is requeued.
    """
    if cluster.requeue != "auto":
        return cluster.requeue
    chosen = (one.requeue for one in all_submissions(run) if one.job_id == process.job_id and one.requeue)
    return next(chosen, "requeue")


def is_extra_start(run: RunDirectory, process: ProcessInfo, attempts: Attempts | None = None) -> bool:
    """Return True if Slurm has started this task's job again although an earlier start of it has finished the run.

    Args:
        attempts: the journal's; read unless given.
    """
    holder = last_holder(run)
    if holder is None or slurm_job_id(process) is None or holder.job_id != process.job_id:
        return False
    end = (attempts or Attempts(read_events(run.journal))).last_end
    return end is not None and end.outcome == AttemptEnded.FINISHED and holder.restart < process.attempt


def carry_out(
    end: AttemptEnd,
    ended: AttemptEnded,
    run: RunDirectory,
    process: ProcessInfo,
    cluster: ClusterSpec,
    *,
    attempts: Attempts,
    write: Callable[[AttemptEnded], None],
) -> str:
    """Do what follows the `end` of an attempt of a job; return what was done, "" for nothing worth a message.

    Everything must be durable, and the end be recorded as `ended`: Slurm ends the tasks of a requeued job at once.

    Args:
        attempts: of the journal so far.
        write: records an end that differs, where Slurm refuses.
    """
    if end.follow_up is FollowUp.NOTHING:
        end_for_good(run, process, cluster)
        return ""
    if end.follow_up is not FollowUp.REQUEUE:
        return "queued again by Slurm" if end.follow_up is FollowUp.BY_SLURM else ""
    try:
        return queue_again(run, process, cluster, attempts.failed_nodes)
    except ClusterError as refusal:
        message = f"{NOT_QUEUED}: {refusal.message}"
        outcome = AttemptEnded.STOPPED if end.cause in (Cause.PREEMPTED, Cause.TIME_LIMIT) else AttemptEnded.FAILED
        detail = f"{ended.detail}; {message}"
        write(msgspec.structs.replace(ended, outcome=outcome, requeued=False, detail=detail))
        return message


def queue_again(run: RunDirectory, process: ProcessInfo, cluster: ClusterSpec, exclude: Sequence[str]) -> str:
    """Queue the run again as the spec asks; return a message about what was done.

    Args:
        exclude: nodes that the next attempt must not get.

    Raises:
        ClusterError: Slurm refuses.
    """
    assert process.job_id is not None
    if requeue_mode(run, process, cluster) == "chain":
        try:
            successor = ensure_successor(run, process, exclude)
        except ClusterError:
            if cluster.requeue == "chain":
                raise
            scheduler.set_requeue(process.job_id, allowed=True)  # the spec leaves the mode open
        else:
            with contextlib.suppress(ClusterError):  # a template's job may be requeued too, and would be since 24.05
                scheduler.set_requeue(process.job_id, allowed=False)
            return f"job {successor} follows"
    scheduler.requeue(process.job_id)
    if exclude:
        with contextlib.suppress(ClusterError):  # the run continues all the same
            scheduler.exclude_nodes(process.job_id, exclude)
    return "queued again"


def end_for_good(run: RunDirectory, process: ProcessInfo, cluster: ClusterSpec) -> None:
    """Make sure that nothing follows this task's job: no successor, and no further start of the job itself.

    Since 24.05 Slurm starts a job that it once preempted again after its own end, whatever its exit code. A job that
    was submitted with --requeue=expedite is held in the queue after an exit code other than 0.
    """
    assert process.job_id is not None
    cancel_successor(run, process.job_id)
    if process.attempt > 1 or requeue_mode(run, process, cluster) == "expedite":
        with contextlib.suppress(ClusterError):  # a further start finds that the run is finished, and leaves
            scheduler.set_requeue(process.job_id, allowed=False)
