"""What a batch script does after its tasks: record why they ended, where they could not, and queue the run again."""

from __future__ import annotations

import contextlib
import signal

import msgspec

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.srun_output import first_end
from hpc_yolo.core.errors import ClusterError, LeaseError, RunError
from hpc_yolo.core.units import format_mem
from hpc_yolo.resilience.attempt_end import (
    StepEnd,
    decide,
    exit_cause,
    has_stepped,
    is_idle,
    slurm_requeues,
    stop_cause,
)
from hpc_yolo.resilience.job_evidence import read_step_end
from hpc_yolo.resilience.lease import last_holder, take_lease
from hpc_yolo.resilience.requeue import NOT_QUEUED, end_for_good, is_extra_start, job_of, queue_again
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import last_step
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, Cause
from hpc_yolo.runs.failures import Failure, failures_of
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import ClusterSpec


def conclude_job(run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo, status: int) -> int:
    """Decide what follows the end of a job's tasks with `status`; the job's exit code."""
    if process.job_id is None:
        return status
    if status == LeaseError.exit_code:  # another start trains this run
        end_for_good(run, process, cluster)
        return status
    attempt = own_attempt(run, process)
    events = read_events(run.journal)
    own_end = None if attempt is None else own_last_word(events, attempt)
    is_finished = own_end is not None and own_end.outcome == AttemptEnded.FINISHED
    if status == 0 or is_finished or is_extra_start(run, process):
        end_for_good(run, process, cluster)
        return 0
    if own_end is not None:
        _complete(own_end, events, run, cluster, process)
    else:
        _end_for_tasks(attempt, events, run, cluster, process, status)
    return status


def own_attempt(run: RunDirectory, process: ProcessInfo) -> int | None:
    """Return the attempt that this start of the job is; None where its tasks did not come so far."""
    holder = last_holder(run)
    is_own = holder is not None and (holder.job_id, holder.restart) == (process.job_id, process.attempt)
    return holder.attempt if holder is not None and is_own else None


def own_last_word(events: list[AnyEvent], attempt: int) -> AttemptEnded | None:
    """Return what `attempt` has recorded of its end."""
    ends = [event for event in events if isinstance(event, AttemptEnded) and event.attempt == attempt]
    return ends[-1] if ends else None


def _complete(
    own_end: AttemptEnded, events: list[AnyEvent], run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo
) -> None:
    """Do for the tasks what they could not do: a task in a container, for one, has no scontrol."""
    job = job_of(process)
    if slurm_requeues(job, process.attempt):
        return
    before = [event for event in events if not (isinstance(event, AttemptEnded) and event.attempt == own_end.attempt)]
    if own_end.cause == Cause.PREEMPTED and stop_cause(signal.SIGTERM, job, process.attempt) == Cause.CANCELLED:
        if own_end.requeued:  # rank 0 could not ask Slurm
            _record(run, msgspec.structs.replace(own_end, cause=Cause.CANCELLED, requeued=False))
        end_for_good(run, process, cluster)
    elif not decide(own_end.cause, before, cluster, is_idle=own_end.is_idle).again:
        end_for_good(run, process, cluster)
    elif job is None or job.is_running:  # else Slurm ends the job already: a successor takes over, if there is one
        _queue_again(own_end, events, run, cluster, process)


def _end_for_tasks(
    attempt: int | None,
    events: list[AnyEvent],
    run: RunDirectory,
    cluster: ClusterSpec,
    process: ProcessInfo,
    status: int,
) -> None:
    """Record the end of tasks that could not do so themselves, and queue the run again where its causes allow that."""
    assert process.job_id is not None
    job, step = job_of(process), read_step_end(process, status)
    failures = failures_of(run, process.job_id, process.attempt)
    cause = exit_cause(step, failures, job, process.attempt)
    stepped = attempt is not None and has_stepped(events, attempt)
    idle = is_idle(cause, has_stepped=stepped, job=job, restart=process.attempt)
    decision = decide(cause, events, cluster, is_idle=idle)
    is_queued = slurm_requeues(job, process.attempt)
    goes_on = is_queued or decision.again
    ended = AttemptEnded(
        attempt=attempt or 0,
        outcome=AttemptEnded.STOPPED if goes_on or cause == Cause.CANCELLED else AttemptEnded.FAILED,
        epoch=0,
        step=last_step(events),
        detail=f"{what_happened(step, failures, cause)}: {decision.words or cause}",
        cause=cause,
        requeued=goes_on,
        is_idle=idle,
    )
    if attempt is None and cause not in (Cause.CANCELLED, Cause.ERROR):
        ended = msgspec.structs.replace(ended, attempt=_number_of_this_start(run, process))
    print(f"hpc-yolo: {ended.detail}", flush=True)
    _record(run, ended)  # first: Slurm ends what is left of a requeued job at once
    if is_queued:
        print("hpc-yolo: queued again by Slurm", flush=True)
    elif decision.again:
        _queue_again(ended, events, run, cluster, process)
    else:
        end_for_good(run, process, cluster)


def what_happened(step: StepEnd, failures: list[Failure], cause: str) -> str:
    """Return how the tasks ended, for a person."""
    first = first_end(step.ends, {failure.rank for failure in failures})
    how = f"the tasks ended with exit code {step.status.code}" if first is None else first.text
    if cause != Cause.OUT_OF_MEMORY:
        return how
    peak = "" if step.peak_bytes is None else f" of {format_mem(step.peak_bytes)}"
    return f"the memory of the job ran out at a peak{peak} (ask for more cluster.mem, or fewer train.workers): {how}"


def _queue_again(
    ended: AttemptEnded, events: list[AnyEvent], run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo
) -> None:
    """Queue the run again after `ended`, and record where that differs from what is recorded."""
    try:
        words = queue_again(run, process, cluster, events)
    except ClusterError as refusal:
        words = f"{NOT_QUEUED}: {refusal.message}"
        outcome = AttemptEnded.STOPPED if ended.cause in (Cause.PREEMPTED, Cause.TIME_LIMIT) else AttemptEnded.FAILED
        ended = msgspec.structs.replace(ended, outcome=outcome, requeued=False, detail=f"{ended.detail}; {words}")
        _record(run, ended)
        print(f"hpc-yolo: {words}", flush=True)
        return
    if not ended.requeued:
        before = ended.detail.partition(f"; {NOT_QUEUED}")[0]
        _record(run, msgspec.structs.replace(ended, requeued=True, detail=f"{before}; {words} by the batch script"))
    print(f"hpc-yolo: {words}", flush=True)


def _number_of_this_start(run: RunDirectory, process: ProcessInfo) -> int:
    """Return an attempt's number for a start of the job whose tasks ended before they took one; 0 where there is none.

    It counts like any other: a job that is killed again and again before it begins comes to an end.
    """
    with contextlib.suppress(RunError):
        lease = take_lease(run, process, watch_s=0)
        lease.release()
        return lease.attempt
    return 0


def _record(run: RunDirectory, ended: AttemptEnded) -> None:
    if ended.attempt:
        JournalWriter(run.journal, ended.attempt).write(ended)
