"""Why an attempt ended, how often that has happened, and whether the run goes on.

Causes come from Slurm's own words, from the signal, and from what ranks have left; never from how long something took.
They are counted in the journal, which every start of the run reads. Three speakers use this room: rank 0 when it
leaves; the batch script after its tasks (`hpc-yolo after-job`), for those that had no time for words; and rank 0 of the
next attempt, for an attempt of which neither was left.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_output import JobRecord
from hpc_yolo.errors import ClusterError, StallError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, AttemptStarted, Cause
from hpc_yolo.runs.failures import Failure
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.successor import ensure_successor

SIGNAL_BASE = 128  # what a shell adds to the number of a signal that ended a command

# Slurm's word for an earlier start of a job, in sacct.
_CAUSE_OF_STATE = {
    "NODE_FAIL": Cause.NODE_FAILURE,
    "PREEMPTED": Cause.PREEMPTED,
    "REQUEUED": Cause.PREEMPTED,
    "TIMEOUT": Cause.TIME_LIMIT,
    "CANCELLED": Cause.CANCELLED,
}


@dataclass(frozen=True)
class Decision:
    """Whether a run goes on after an attempt, and why, for the screen and the journal."""

    again: bool
    words: str


def count_causes(events: Iterable[AnyEvent]) -> Counter[str]:
    """How many attempts ended for each cause; of an attempt the last word counts."""
    last = {event.attempt: event.cause for event in events if isinstance(event, AttemptEnded)}
    return Counter(cause for cause in last.values() if cause)


def failed_nodes(events: Iterable[AnyEvent]) -> list[str]:
    """Nodes that have failed under this run."""
    return sorted({node for event in events if isinstance(event, AttemptEnded) for node in event.failed_nodes})


def decide(cause: str, events: Iterable[AnyEvent], cluster: ClusterSpec) -> Decision:
    """Whether a run goes on after an attempt that ends by `cause`. `events`: before that is told."""
    counts = count_causes(events)
    number = counts[cause] + 1
    if cause == Cause.PREEMPTED:
        decision = Decision(True, f"preempted {_times(number)}, without a limit")
    elif cause == Cause.TIME_LIMIT:
        decision = _within(cause, number, cluster.max_timeouts, "cluster.max_timeouts")
    elif cause == Cause.NODE_FAILURE:
        decision = _within(cause, number, cluster.max_node_failures, "cluster.max_node_failures")
    elif cause in (Cause.KILLED, Cause.STALLED):
        number = counts[Cause.KILLED] + counts[Cause.STALLED] + 1
        decision = _within("killed or stalled", number, cluster.max_kills, "cluster.max_kills")
    else:
        return Decision(False, "")
    if cluster.requeue == "off" and decision.again:
        return Decision(False, f"{decision.words}; cluster.requeue is off")
    return decision


def stop_cause(signal_number: int, job: JobRecord | None, restart: int) -> str:
    """Why a job's tasks were asked to stop.

    Args:
        job: what Slurm says; None outside of Slurm, and where it does not answer.
        restart: which start of the job this is, from 1.
    """
    if signal_number == signal.SIGINT:
        return Cause.INTERRUPTED
    if job is not None and (job.is_being_preempted or slurm_requeues(job, restart)):
        return Cause.PREEMPTED  # some sites send the warning of the time limit then, not SIGTERM
    if signal_number == signal.SIGUSR2:
        return Cause.TIME_LIMIT
    return Cause.PREEMPTED if job is None or job.is_running else Cause.CANCELLED


def slurm_requeues(job: JobRecord | None, restart: int) -> bool:
    """Whether Slurm has put the job back into the queue by itself: preempted without grace, or by a person's word."""
    return job is not None and job.restarts >= restart


def exit_cause(status: int, failures: Iterable[Failure], job: JobRecord | None, restart: int) -> str:
    """Why tasks ended of which rank 0 could not say it.

    Args:
        status: of srun: the highest of its tasks.
        failures: last words of ranks of this start.
    """
    own_words = [failure for failure in failures if not failure.is_echo]
    if own_words:
        stalled = all(failure.exit_code == StallError.exit_code for failure in own_words)
        return Cause.STALLED if stalled else Cause.ERROR
    if status - SIGNAL_BASE in (signal.SIGTERM, signal.SIGUSR2):  # before the first step, which saves nothing
        return stop_cause(status - SIGNAL_BASE, job, restart)
    if status > SIGNAL_BASE or any(failures):
        return Cause.KILLED
    return Cause.ERROR


def lost_attempt(events: list[AnyEvent]) -> AttemptStarted | None:
    """The newest attempt, if it ended without a word."""
    newest = next((event for event in reversed(events) if isinstance(event, (AttemptStarted, AttemptEnded))), None)
    return newest if isinstance(newest, AttemptStarted) else None


def end_of_lost_attempt(lost: AttemptStarted, last_step: int) -> AttemptEnded:
    """What can be said on behalf of an attempt of which nobody was left; asks Slurm."""
    cause, nodes = Cause.KILLED, []
    try:
        states = scheduler.earlier_states(lost.job_id) if lost.job_id is not None and lost.launcher == "slurm" else []
        cause = _CAUSE_OF_STATE.get(states[-1], Cause.KILLED) if states else Cause.KILLED
        if cause == Cause.NODE_FAILURE:
            nodes = scheduler.nodes_down({place.host for place in lost.ranks})
    except ClusterError:
        pass  # what nobody can say counts as killed
    named = f" ({', '.join(nodes)})" if nodes else ""
    return AttemptEnded(
        outcome=AttemptEnded.STOPPED,
        epoch=lost.epoch,
        step=last_step,
        detail=f"ended without a word: {cause}{named}",
        cause=cause,
        requeued=True,
        failed_nodes=nodes,
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
    if cluster.requeue == "chain":
        return f"job {ensure_successor(run, process, exclude)} follows"
    scheduler.requeue(process.job_id)
    if exclude:
        with contextlib.suppress(ClusterError):  # it goes on all the same
            scheduler.exclude_nodes(process.job_id, exclude)
    return "queued again"


def _within(what: str, number: int, limit: int, field: str) -> Decision:
    if number <= limit:
        return Decision(True, f"{what} {number} of {limit}")
    return Decision(False, f"{what} {_times(number)}, and {field} is {limit}")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
