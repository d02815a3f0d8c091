"""What a batch script does after its tasks: tell the journal why they ended, where they could not, and queue again."""

from __future__ import annotations

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.errors import LeaseError
from hpc_yolo.lease import last_holder
from hpc_yolo.requeue import (
    Decision,
    decide,
    exit_cause,
    job_of,
    put_back,
    slurm_requeues,
)
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, Cause
from hpc_yolo.runs.failures import failures_of
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.lines import last_step
from hpc_yolo.spec.schema import Spec


def conclude_job(run: RunDirectory, spec: Spec, process: ProcessInfo, status: int) -> int:
    """Decide what follows the end of a job's tasks with `status`; the job's exit code."""
    if process.job_id is None or status == LeaseError.exit_code:
        return status  # another start trains this run
    holder = last_holder(run)
    has_begun = holder is not None and (holder.job_id, holder.restart) == (process.job_id, process.attempt)
    events = read_events(run.journal)
    own_end = own_last_word(events, holder.attempt) if holder is not None and has_begun else None
    if own_end is not None and own_end.outcome == AttemptEnded.FINISHED:
        return 0
    job = job_of(process)
    if own_end is not None:
        if own_end.requeued and job is not None and job.is_running and not slurm_requeues(job, process.attempt):
            put_back(process, events)  # rank 0 had no time for it
        return status
    cause = exit_cause(status, failures_of(run, process.job_id, process.attempt), job, process.attempt)
    decision = decide(cause, events, spec.cluster)
    if not has_begun and cause not in (Cause.PREEMPTED, Cause.TIME_LIMIT):
        decision = Decision(False, f"{cause} before the run could begin")
    words = f"the tasks ended with exit code {status}: {decision.words or cause}"
    is_queued = slurm_requeues(job, process.attempt)
    if decision.again and not is_queued:
        refusal = put_back(process, events)
        is_queued, words = refusal is None, f"{words}{'' if refusal is None else f'; not queued again: {refusal}'}"
    print(f"hpc-yolo: {words}{', queued again' if is_queued else ''}", flush=True)
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
