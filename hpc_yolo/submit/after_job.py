"""What a batch script does after its tasks: tell the journal why they ended, where they could not, and queue again."""

from __future__ import annotations

import contextlib

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.errors import ClusterError, LeaseError
from hpc_yolo.lease import last_holder
from hpc_yolo.requeue import (
    Decision,
    decide,
    exit_cause,
    job_of,
    queue_again,
    slurm_requeues,
)
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, Cause
from hpc_yolo.runs.failures import failures_of
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.lines import last_step
from hpc_yolo.spec.schema import Spec
from hpc_yolo.successor import cancel_successor


def conclude_job(run: RunDirectory, spec: Spec, process: ProcessInfo, status: int) -> int:
    """Decide what follows the end of a job's tasks with `status`; the job's exit code."""
    if process.job_id is None:
        return status
    if status == LeaseError.exit_code:  # another start trains this run
        cancel_successor(run, process.job_id)
        return status
    holder = last_holder(run)
    has_begun = holder is not None and (holder.job_id, holder.restart) == (process.job_id, process.attempt)
    events = read_events(run.journal)
    own_end = own_last_word(events, holder.attempt) if holder is not None and has_begun else None
    if own_end is not None and own_end.outcome == AttemptEnded.FINISHED:
        return 0
    job = job_of(process)
    if own_end is not None:
        if not own_end.requeued:
            cancel_successor(run, process.job_id)
        elif job is not None and job.is_running and not slurm_requeues(job, process.attempt):
            with contextlib.suppress(ClusterError):
                queue_again(run, process, spec.cluster, events)  # rank 0 had no time for it
        return status
    cause = exit_cause(status, failures_of(run, process.job_id, process.attempt), job, process.attempt)
    decision = decide(cause, events, spec.cluster)
    if not has_begun and cause not in (Cause.PREEMPTED, Cause.TIME_LIMIT):
        decision = Decision(False, f"{cause} before the run could begin")
    words = f"the tasks ended with exit code {status}: {decision.words or cause}"
    is_queued = slurm_requeues(job, process.attempt)
    if is_queued:
        words = f"{words}; queued again by Slurm"
    elif decision.again:
        try:
            words, is_queued = f"{words}; {queue_again(run, process, spec.cluster, events)}", True
        except ClusterError as refusal:
            words = f"{words}; not queued again: {refusal.message}"
    else:
        cancel_successor(run, process.job_id)
    print(f"hpc-yolo: {words}", flush=True)
    if holder is not None and has_begun:
        is_over = not is_queued and cause != Cause.CANCELLED
        outcome = AttemptEnded.FAILED if is_over else AttemptEnded.STOPPED
        ended = AttemptEnded(
            outcome=outcome, epoch=0, step=last_step(events), detail=words, cause=cause, requeued=is_queued
        )
        JournalWriter(run.journal, holder.attempt).write(ended)
    return status


def own_last_word(events: list[AnyEvent], attempt: int) -> AttemptEnded | None:
    """What `attempt` has said of its end."""
    ends = [event for event in events if isinstance(event, AttemptEnded) and event.attempt == attempt]
    return ends[-1] if ends else None
