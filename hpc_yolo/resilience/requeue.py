"""Act on the end of an attempt: put the run back into the queue, or keep Slurm from starting it again.

`causes` says why an attempt ended and whether the run goes on. Three callers use this module: rank 0 when it leaves;
the batch script after its tasks (`hpc-yolo after-job`), for those that ended before they could record it or that have
no `scontrol`; and rank 0 of the next attempt, for an attempt of which neither is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_output import JobRecord
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.resilience.attempt_end import cause_of_start, failed_nodes, has_stepped
from hpc_yolo.resilience.chain import cancel_successor, ensure_successor
from hpc_yolo.resilience.lease import last_holder
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import last_step
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, AttemptStarted, Cause
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.spec.schema import ClusterSpec

NOT_QUEUED = "not queued again"  # before the reason, in the detail of an end


def end_of_lost_attempt(lost: AttemptStarted, events: Sequence[AnyEvent]) -> AttemptEnded:
    """Return the end of an attempt of which nobody is left to report it; asks Slurm. `events`: of the run so far."""
    cause, nodes = Cause.KILLED, []
    try:
        starts = scheduler.earlier_starts(lost.job_id) if lost.job_id is not None and lost.launcher == "slurm" else []
        cause = cause_of_start(starts, lost.time)
        if cause == Cause.NODE_FAILURE:
            nodes = scheduler.nodes_down({place.host for place in lost.ranks})
    except ClusterError:
        pass  # what nobody can say counts as killed
    named = f" ({', '.join(nodes)})" if nodes else ""
    return AttemptEnded(
        outcome=AttemptEnded.STOPPED,
        epoch=lost.epoch,
        step=last_step(events),
        detail=f"ended without a word: {cause}{named}",
        cause=cause,
        requeued=True,
        failed_nodes=nodes,
        is_idle=cause == Cause.TIME_LIMIT and not has_stepped(events, lost.attempt),
    )


def slurm_job_id(process: ProcessInfo) -> str | None:
    """The job of Slurm's that this task belongs to; None on a machine of one's own."""
    return None if process.launcher == "submitit-local" else process.job_id


def job_of(process: ProcessInfo) -> JobRecord | None:
    """What Slurm says of this task's job; None outside of Slurm, and where it does not answer."""
    job_id = slurm_job_id(process)
    try:
        return None if job_id is None else scheduler.job_record(job_id)
    except ClusterError:
        return None


def requeue_mode(run: RunDirectory, process: ProcessInfo, cluster: ClusterSpec) -> str:
    """Return how the run of this task's job goes on after an interruption: requeue, expedite, chain or off.

    Where the spec leaves it open, `submit` has chosen; a job that was submitted otherwise is requeued.
    """
    if cluster.requeue != "auto":
        return cluster.requeue
    chosen = (one.requeue for one in all_submissions(run) if one.job_id == process.job_id and one.requeue)
    return next(chosen, "requeue")


def is_extra_start(run: RunDirectory, process: ProcessInfo) -> bool:
    """Whether Slurm has started this task's job again although it has finished the run."""
    holder = last_holder(run)
    if holder is None or slurm_job_id(process) is None or holder.job_id != process.job_id:
        return False
    ends = [event for event in read_events(run.journal) if isinstance(event, AttemptEnded)]
    return bool(ends) and ends[-1].outcome == AttemptEnded.FINISHED and holder.restart < process.attempt


def queue_again(run: RunDirectory, process: ProcessInfo, cluster: ClusterSpec, events: Iterable[AnyEvent]) -> str:
    """See to it that the run goes on, away from nodes that failed, in the way that the spec says.

    Everything must be durable: Slurm ends the tasks of a requeued job at once.

    Returns:
        In a few words, what was done.

    Raises:
        ClusterError: Slurm refuses.
    """
    assert process.job_id is not None
    exclude = failed_nodes(events)
    if requeue_mode(run, process, cluster) == "chain":
        try:
            successor = ensure_successor(run, process, exclude)
        except ClusterError:
            if cluster.requeue == "chain":
                raise
            scheduler.set_requeue(process.job_id, allowed=True)  # nobody insists on a successor
        else:
            with contextlib.suppress(ClusterError):  # a template's job may be requeued too, and would be since 24.05
                scheduler.set_requeue(process.job_id, allowed=False)
            return f"job {successor} follows"
    scheduler.requeue(process.job_id)
    if exclude:
        with contextlib.suppress(ClusterError):  # it goes on all the same
            scheduler.exclude_nodes(process.job_id, exclude)
    return "queued again"


def end_for_good(run: RunDirectory, process: ProcessInfo, cluster: ClusterSpec) -> None:
    """See to it that nothing follows this task's job: no successor, and no further start of the job itself.

    Since 24.05 Slurm starts a job that it once preempted again after its own end, whatever its exit code. A job that
    was submitted with --requeue=expedite is held in the queue after an exit code other than 0.
    """
    assert process.job_id is not None
    cancel_successor(run, process.job_id)
    if process.attempt > 1 or requeue_mode(run, process, cluster) == "expedite":
        with contextlib.suppress(ClusterError):  # a further start finds that the run is finished, and leaves
            scheduler.set_requeue(process.job_id, allowed=False)
