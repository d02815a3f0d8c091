"""The last command of a batch script: record why its tasks ended, where they could not, and queue the run again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import msgspec

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.srun_output import first_end
from hpc_yolo.core.errors import LeaseError, RunError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.core.units import format_mem
from hpc_yolo.resilience.attempt_end import SUPERSEDED, AttemptEnd, AttemptFacts, FollowUp, StepEnd, attempt_end
from hpc_yolo.resilience.job_evidence import read_step_end
from hpc_yolo.resilience.lease import last_holder, take_lease
from hpc_yolo.resilience.requeue import NOT_QUEUED, carry_out, end_for_good, is_extra_start, own_job_record
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.failures import Failure, failures_of
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import ClusterSpec


def conclude_job(run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo, status: int) -> tuple[int, str | None]:
    """Do what follows the end of a job's tasks with exit code `status`.

    Returns:
        The job's exit code, and the cause with which the run has ended for good; None where it goes on.
    """
    if process.job_id is None:
        return status, None
    facts = read_facts(run, cluster, process, ExitStatus(status))
    end = attempt_end(facts)
    if end.cause in (Cause.FINISHED, SUPERSEDED):
        end_for_good(run, process, cluster)
        return (0, end.cause) if end.cause == Cause.FINISHED else (status, None)
    ended = _recorded(facts.recorded, end) if facts.recorded is not None else _new_event(facts, end)
    if facts.recorded is None:
        print(f"hpc-yolo: {ended.detail}", flush=True)
        if facts.number is None and (end.cause not in (Cause.CANCELLED, Cause.ERROR) or _program_message(facts, end)):
            ended = msgspec.structs.replace(ended, attempt=_number_of_this_start(run, process))
    if ended != facts.recorded:
        _record(run, ended)
    done = carry_out(
        end,
        ended,
        run,
        process,
        cluster,
        attempts=facts.attempts,
        write=lambda refused: _record(run, refused),
    )
    if done:
        print(f"hpc-yolo: {done}", flush=True)
    return status, None if end.goes_on else end.cause


def read_facts(run: RunDirectory, limits: ClusterSpec, process: ProcessInfo, status: ExitStatus) -> AttemptFacts:
    """Return what this process can find out about the end of its job's tasks with `status`."""
    assert process.job_id is not None
    attempts = Attempts(read_events(run.journal))
    facts = AttemptFacts(
        limits=limits,
        attempts=attempts,
        number=own_attempt(run, process),
        restart=process.attempt,
        is_finished=is_extra_start(run, process, attempts),
        step=StepEnd(status),
    )
    if status.code in (0, LeaseError.exit_code) or facts.is_finished:
        return facts
    job = own_job_record(process)
    if facts.recorded is not None:
        return dataclasses.replace(facts, job=job)
    failures = failures_of(run, process.job_id, process.attempt)
    return dataclasses.replace(facts, job=job, step=read_step_end(process, status), failures=failures)


def own_attempt(run: RunDirectory, process: ProcessInfo) -> int | None:
    """Return the attempt that this start of the job is; None where its tasks ended before they took the lease."""
    holder = last_holder(run)
    is_own = holder is not None and (holder.job_id, holder.restart) == (process.job_id, process.attempt)
    return holder.attempt if holder is not None and is_own else None


def _recorded(recorded: AttemptEnded, end: AttemptEnd) -> AttemptEnded:
    """Return the event of an end that the tasks have recorded, brought up to date.

    A task in a container, for one, has no scontrol: it could neither query Slurm nor requeue.
    """
    if end.follow_up is FollowUp.BY_SUCCESSOR:
        return recorded
    detail = recorded.detail
    if end.goes_on and not recorded.requeued:
        by = "Slurm" if end.follow_up is FollowUp.BY_SLURM else "the batch script"
        detail = f"{detail.partition(f'; {NOT_QUEUED}')[0]}; queued again by {by}"
    return msgspec.structs.replace(recorded, cause=end.cause, requeued=end.goes_on, detail=detail)


def _new_event(facts: AttemptFacts, end: AttemptEnd) -> AttemptEnded:
    """Return the event of an end that the tasks could not record."""
    assert facts.step is not None
    detail = f"{describe_end(facts.step, facts.failures, end.cause)}: {end.reason or end.cause}"
    if message := _program_message(facts, end):
        detail += f" ({message})"
    ended = end.event(facts.attempts.last_step, detail)
    return msgspec.structs.replace(ended, attempt=facts.number or 0)


def _program_message(facts: AttemptFacts, end: AttemptEnd) -> str:
    """Return the message of a program that ended before a rank could report: a container runtime, or Python; or ""."""
    if facts.number is not None or facts.step is None or facts.failures or end.cause != Cause.ERROR:
        return ""
    return facts.step.last_message


def describe_end(step: StepEnd, failures: Sequence[Failure], cause: str) -> str:
    """Return a message about how the tasks ended."""
    first = first_end(step.ends, {failure.rank for failure in failures})
    how = f"the tasks ended with exit code {step.status.code}" if first is None else first.text
    if cause != Cause.OUT_OF_MEMORY:
        return how
    peak = "" if step.peak_bytes is None else f" of {format_mem(step.peak_bytes)}"
    return f"the memory of the job ran out at a peak{peak} (ask for more cluster.mem, or fewer train.workers): {how}"


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
