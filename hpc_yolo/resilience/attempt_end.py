"""Why an attempt ended, how often that has happened, and whether the run goes on: pure functions of what was observed.

Causes come from Slurm's own words, from signals, and from what ranks and srun report; never from how long something
took. They are counted in the journal, which every attempt reads. `requeue` acts on them.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpc_yolo.cluster.slurm_output import EndedStart, JobRecord
from hpc_yolo.cluster.srun_output import TaskEnd, first_end
from hpc_yolo.core.errors import StallError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, AttemptStarted, Cause
from hpc_yolo.runs.failures import Failure
from hpc_yolo.spec.schema import ClusterSpec

# Slurm's word for an earlier start of a job, in sacct.
_CAUSE_OF_STATE = {
    "BOOT_FAIL": Cause.NODE_FAILURE,
    "CANCELLED": Cause.CANCELLED,
    "DEADLINE": Cause.CANCELLED,
    "NODE_FAIL": Cause.NODE_FAILURE,
    "OUT_OF_MEMORY": Cause.OUT_OF_MEMORY,
    "PREEMPTED": Cause.PREEMPTED,
    "REQUEUED": Cause.PREEMPTED,
    "TIMEOUT": Cause.TIME_LIMIT,
}


@dataclass(frozen=True)
class Decision:
    """Whether a run goes on after an attempt, and why, for the screen and the journal."""

    again: bool
    words: str


@dataclass(frozen=True)
class StepEnd:
    """How srun's tasks ended.

    Attributes:
        status: srun's exit status, the highest of its tasks.
        ends: of single tasks, in the order in which srun heard of them; empty where its log cannot be read.
        is_out_of_memory: Slurm says that a process was killed because the job's memory ran out.
        peak_bytes: the most memory that was measured, of the job on one node or of its largest task; None: nobody did.
    """

    status: ExitStatus
    ends: Sequence[TaskEnd] = ()
    is_out_of_memory: bool = False
    peak_bytes: int | None = None


def count_causes(events: Iterable[AnyEvent]) -> Counter[str]:
    """How many attempts ended for each cause; of an attempt the last word counts."""
    last = {event.attempt: event.cause for event in events if isinstance(event, AttemptEnded)}
    return Counter(cause for cause in last.values() if cause)


def failed_nodes(events: Iterable[AnyEvent]) -> list[str]:
    """Nodes that have failed under this run."""
    return sorted({node for event in events if isinstance(event, AttemptEnded) for node in event.failed_nodes})


def decide(cause: str, events: Iterable[AnyEvent], cluster: ClusterSpec, *, is_idle: bool = False) -> Decision:
    """Whether a run goes on after an attempt that ends by `cause`.

    Args:
        events: before this end is recorded.
        is_idle: see `AttemptEnded.is_idle`.
    """
    events = list(events)
    counts = count_causes(events)
    number = counts[cause] + 1
    if is_idle and _last_was_idle(events):
        return Decision(False, f"{cause} for the second time in a row before the first step")
    if cause == Cause.PREEMPTED:
        decision = Decision(True, f"preempted {_times(number)}, without a limit")
    elif cause == Cause.TIME_LIMIT:
        decision = _within(cause, number, cluster.max_timeouts, "cluster.max_timeouts")
    elif cause == Cause.NODE_FAILURE:
        decision = _within(cause, number, cluster.max_node_failures, "cluster.max_node_failures")
    elif cause in (Cause.KILLED, Cause.STALLED):
        number = counts[Cause.KILLED] + counts[Cause.STALLED] + 1
        decision = _within("killed or stalled", number, cluster.max_crashes, "cluster.max_crashes")
    else:
        return Decision(False, "")
    if cluster.requeue == "off" and decision.again:
        return Decision(False, f"{decision.words}; cluster.requeue is off")
    return decision


def is_idle(cause: str, *, has_stepped: bool, job: JobRecord | None, restart: int) -> bool:
    """Whether an attempt did nothing and nobody else is known to be to blame: its start may be what takes too long.

    A preemption that Slurm confirms says nothing about the run; a signal that somebody sent, or a time limit, may come
    again and again before the first step.
    """
    if has_stepped or cause not in (Cause.PREEMPTED, Cause.TIME_LIMIT):
        return False
    return cause == Cause.TIME_LIMIT or not is_taken_by_slurm(job, restart)


def has_stepped(events: Iterable[AnyEvent], attempt: int) -> bool:
    """Whether `events` show a step of `attempt`."""
    own = [event for event in events if event.attempt == attempt]
    first = next((event.step for event in own if isinstance(event, AttemptStarted)), None)
    return first is not None and any(getattr(event, "step", first) > first for event in own)


def stop_cause(stop_signal: signal.Signals, job: JobRecord | None, restart: int) -> str:
    """Why a job's tasks were asked to stop.

    Args:
        job: what Slurm says; None outside of Slurm, and where it does not answer.
        restart: which start of the job this is, from 1.
    """
    if stop_signal == signal.SIGINT:
        return Cause.INTERRUPTED
    if is_taken_by_slurm(job, restart):
        return Cause.PREEMPTED  # some sites send the warning of the time limit then, not SIGTERM
    if stop_signal == signal.SIGUSR2 or (job is not None and job.is_at_limit):
        return Cause.TIME_LIMIT
    return Cause.PREEMPTED if job is None or job.is_running else Cause.CANCELLED


def is_taken_by_slurm(job: JobRecord | None, restart: int) -> bool:
    """Whether Slurm says that it preempts the job, or has put it back into the queue."""
    return job is not None and (job.is_being_preempted or slurm_requeues(job, restart))


def slurm_requeues(job: JobRecord | None, restart: int) -> bool:
    """Whether Slurm has put the job back into the queue by itself: preempted without grace, or by a person's word."""
    return job is not None and job.restarts >= restart


def exit_cause(step: StepEnd, failures: Iterable[Failure], job: JobRecord | None, restart: int) -> str:
    """Why tasks ended of which rank 0 could not say it: the cause is that of the task that ended first.

    Args:
        failures: last words of ranks of this start.
    """
    failures = list(failures)
    own_words = [failure for failure in failures if not failure.is_echo]
    if own_words:
        stalled = all(failure.exit_code == StallError.exit_code for failure in own_words)
        return Cause.STALLED if stalled else Cause.ERROR
    if step.is_out_of_memory:
        return Cause.OUT_OF_MEMORY
    first = first_end(step.ends, {failure.rank for failure in failures})
    status = step.status if first is None or first.status is None else first.status
    if status.signal in (signal.SIGTERM, signal.SIGUSR2):  # before the first step, which saves nothing
        return stop_cause(status.signal, job, restart)
    if status.is_signal or failures:
        return Cause.KILLED
    return Cause.ERROR


def cause_of_start(starts: Sequence[EndedStart], began: float) -> str:
    """Return why an attempt ended that is not there to report it.

    Args:
        starts: of its job, those that are over, oldest first. One after the attempt's own may have ended before it
            could begin an attempt.
        began: when the attempt began, in seconds since 1970.
    """
    own = [start for start in starts if start.began is None or start.began <= began] or starts
    return _CAUSE_OF_STATE.get(own[-1].state, Cause.KILLED) if own else Cause.KILLED


def lost_attempt(events: Sequence[AnyEvent]) -> AttemptStarted | None:
    """The newest attempt, if it ended without a word."""
    newest = next((event for event in reversed(events) if isinstance(event, (AttemptStarted, AttemptEnded))), None)
    return newest if isinstance(newest, AttemptStarted) else None


def _last_was_idle(events: Sequence[AnyEvent]) -> bool:
    last = next((event for event in reversed(events) if isinstance(event, AttemptEnded)), None)
    return last is not None and last.is_idle


def _within(what: str, number: int, limit: int, field: str) -> Decision:
    if number <= limit:
        return Decision(True, f"{what} {number} of {limit}")
    return Decision(False, f"{what} {_times(number)}, and {field} is {limit}")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
