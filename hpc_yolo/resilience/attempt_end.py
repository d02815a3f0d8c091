"""The end of an attempt: why it ended, and what follows. One pure function, `attempt_end`, of the known facts.

Its callers are rank 0 when it leaves, the batch script after its tasks (`after_job`), and the next attempt for one
before it that recorded no end (`lost_attempt`); `requeue` carries out what follows. Causes come from Slurm, from
signals, and from what ranks and srun report, never from how long something took. They are counted in the journal.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from hpc_yolo.cluster.slurm_output import JobAttempt, JobRecord
from hpc_yolo.cluster.srun_output import TaskEnd, first_end
from hpc_yolo.core.errors import CancelledError, LeaseError, StallError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.runs.attempts import Attempts, count_causes
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.failures import Failure
from hpc_yolo.spec.schema import ClusterSpec

SUPERSEDED = "superseded"  # another attempt holds the run; this one records nothing

# By the state that accounting has of a start of a job that is over.
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
class StepEnd:
    """The end of srun's tasks.

    Attributes:
        status: srun's exit status, the highest of its tasks.
        ends: of single tasks, in the order in which srun reports them; empty where its log cannot be read.
        is_out_of_memory: Slurm reports that a process was killed because the job's memory ran out.
        peak_bytes: peak memory of the job on one node, or of its largest task; None where nothing measures it.
        last_message: the last line of a task in the job's log, or why it could not be started.
    """

    status: ExitStatus
    ends: Sequence[TaskEnd] = ()
    is_out_of_memory: bool = False
    peak_bytes: int | None = None
    last_message: str = ""


@dataclass(frozen=True)
class AttemptFacts:
    """The known facts about the end of an attempt; each caller fills in what it has.

    Attributes:
        limits: how often the run continues after each cause.
        attempts: the journal.
        number: of the attempt; None where the job's tasks ended before they had one.
        is_in_slurm: False for a run on this machine.
        restart: number of the job's start, from 1.
        job: the controller's record of the job; None outside Slurm, and where it does not answer.
        is_finished: the last step is done, here or in an earlier start of the job.
        stop_signal: the signal after which all ranks have saved and left.
        setup_status: of the cluster.setup lines, where they ended the job before its tasks.
        step: the end of the job's tasks.
        failures: left by ranks in this start of the job.
        lost_state: for an attempt that recorded no end: accounting's state of its start, "" where that is not known.
    """

    limits: ClusterSpec
    attempts: Attempts = field(default_factory=Attempts)
    number: int | None = None
    is_in_slurm: bool = True
    restart: int = 1
    job: JobRecord | None = None
    is_finished: bool = False
    stop_signal: signal.Signals | None = None
    setup_status: ExitStatus | None = None
    step: StepEnd | None = None
    failures: Sequence[Failure] = ()
    lost_state: str | None = None

    @property
    def recorded(self) -> AttemptEnded | None:
        """The end that the journal has of this attempt."""
        attempt = self.attempts.get(self.number)
        return None if attempt is None else attempt.ended

    @property
    def has_stepped(self) -> bool:
        """True for an attempt that has done at least one step."""
        attempt = self.attempts.get(self.number)
        return attempt is not None and attempt.has_stepped

    @property
    def is_requeued_by_slurm(self) -> bool:
        """True where Slurm has put the job back into the queue: preempted without grace, or by `scontrol requeue`."""
        return self.job is not None and self.job.restarts >= self.restart

    @property
    def is_taken_by_slurm(self) -> bool:
        """True where Slurm preempts the job, or has put it back into the queue."""
        return self.is_requeued_by_slurm or (self.job is not None and self.job.is_being_preempted)

    @property
    def is_cancelled(self) -> bool:
        """True where Slurm ends the job for none of its own reasons."""
        job = self.job
        return job is not None and not (self.is_taken_by_slurm or job.is_at_limit or job.is_running)


class FollowUp(enum.Enum):
    """What follows an attempt."""

    REQUEUE = enum.auto()  # the run has to be put back into the queue
    BY_SLURM = enum.auto()  # Slurm has put the job back into the queue
    BY_SUCCESSOR = enum.auto()  # Slurm is ending the job, and a successor starts if there is one
    NOTHING = enum.auto()  # the run ends


@dataclass(frozen=True)
class AttemptEnd:
    """Why an attempt ended, and what follows.

    Attributes:
        cause: one of `Cause`, or SUPERSEDED.
        outcome: see `AttemptEnded`.
        reason: count and limit that decide what follows, for a message; "" for a cause that is never followed.
        is_idle: see `AttemptEnded`.
    """

    cause: str
    outcome: str
    follow_up: FollowUp
    reason: str = ""
    is_idle: bool = False

    @property
    def goes_on(self) -> bool:
        """True where another attempt follows."""
        return self.follow_up is not FollowUp.NOTHING

    def event(self, step: int, detail: str, *, epoch: int = 0, failed_nodes: Sequence[str] = ()) -> AttemptEnded:
        """Return the journal's event of this end."""
        return AttemptEnded(
            outcome=self.outcome,
            epoch=epoch,
            step=step,
            detail=detail,
            cause=self.cause,
            requeued=self.goes_on,
            failed_nodes=list(failed_nodes),
            is_idle=self.is_idle,
        )


def attempt_end(facts: AttemptFacts) -> AttemptEnd:
    """Return why an attempt ended, and what follows."""
    cause = _cause(facts)
    is_idle = _is_idle(facts, cause)
    may_go_on, reason = _within_limits(facts, cause, is_idle=is_idle)
    follow_up = _follow_up(facts, cause, may_go_on=may_go_on)
    return AttemptEnd(cause, _outcome(facts, cause, follow_up), follow_up, reason, is_idle)


def _cause(facts: AttemptFacts) -> str:
    status = None if facts.step is None else facts.step.status.code
    if status == LeaseError.exit_code:
        return SUPERSEDED
    if status == 0 or facts.is_finished:
        return Cause.FINISHED
    if facts.recorded is not None:
        is_cancelled = facts.recorded.cause == Cause.PREEMPTED and facts.is_cancelled  # rank 0 could not query Slurm
        return Cause.CANCELLED if is_cancelled else facts.recorded.cause
    if facts.stop_signal is not None:
        return _stop_cause(facts, facts.stop_signal)
    if facts.setup_status is not None:
        return _setup_cause(facts, facts.setup_status)
    if facts.step is not None:
        return _step_cause(facts, facts.step)
    if facts.lost_state is not None:
        return _CAUSE_OF_STATE.get(facts.lost_state, Cause.KILLED)
    return _failure_cause(facts.failures) or Cause.KILLED


def _stop_cause(facts: AttemptFacts, stop_signal: signal.Signals) -> str:
    """Return why the job's tasks were asked to stop."""
    if stop_signal == signal.SIGINT or not facts.is_in_slurm:
        return Cause.INTERRUPTED
    if facts.is_taken_by_slurm:
        return Cause.PREEMPTED  # some sites send the warning of the time limit then, not SIGTERM
    if stop_signal == signal.SIGUSR2 or (facts.job is not None and facts.job.is_at_limit):
        return Cause.TIME_LIMIT
    return Cause.CANCELLED if facts.is_cancelled else Cause.PREEMPTED


def _setup_cause(facts: AttemptFacts, status: ExitStatus) -> str:
    """Return why the setup ended: by a signal while Slurm ends the job, else by itself: the line would fail again."""
    is_ending = facts.job is not None and (facts.is_taken_by_slurm or not facts.job.is_running)
    return _stop_cause(facts, signal.SIGTERM) if status.is_signal and is_ending else Cause.ERROR


def _step_cause(facts: AttemptFacts, step: StepEnd) -> str:
    """Return why tasks ended whose end rank 0 could not record: the cause is that of the task that ended first."""
    if (cause := _failure_cause(facts.failures)) is not None:
        return cause
    if step.is_out_of_memory:
        return Cause.OUT_OF_MEMORY
    first = first_end(step.ends, {failure.rank for failure in facts.failures})
    status = step.status if first is None or first.status is None else first.status
    if status.signal in (signal.SIGTERM, signal.SIGUSR2):  # before the first step, which saves nothing
        return _stop_cause(facts, status.signal)
    return Cause.KILLED if status.is_signal or facts.failures else Cause.ERROR


def _failure_cause(failures: Sequence[Failure]) -> str | None:
    """Return why ranks failed; None where each of `failures` only echoes the end of another process."""
    codes = {failure.exit_code for failure in failures if not failure.is_echo}
    if not codes:
        return None
    if codes == {StallError.exit_code}:
        return Cause.STALLED
    return Cause.CANCELLED if codes == {CancelledError.exit_code} else Cause.ERROR


def _is_idle(facts: AttemptFacts, cause: str) -> bool:
    """Return True if the attempt did no step and its own start may be what takes too long.

    A preemption that Slurm confirms says nothing about the run; a signal from elsewhere, or a time limit, may come
    again and again before the first step.
    """
    if facts.recorded is not None:
        return facts.recorded.is_idle
    if facts.has_stepped:
        return False
    is_confirmed = facts.is_taken_by_slurm or facts.lost_state is not None
    return cause == Cause.TIME_LIMIT or (cause == Cause.PREEMPTED and not is_confirmed)


def _within_limits(facts: AttemptFacts, cause: str, *, is_idle: bool) -> tuple[bool, str]:
    """Return (True if the run may continue after an attempt that ends by `cause`, the count and limit that decide)."""
    limits, others = facts.limits, facts.attempts.without(facts.number)
    counts = count_causes(others)
    number = counts[cause] + 1
    ends = [attempt.ended for attempt in others if attempt.ended is not None]
    if is_idle and ends and ends[-1].is_idle:
        return False, f"{cause} for the second time in a row before the first step"
    if cause == Cause.PREEMPTED:
        may_go_on, reason = True, f"preempted {_times(number)}, without a limit"
    elif cause == Cause.TIME_LIMIT:
        may_go_on, reason = _compare(cause, number, limits.max_timeouts, "cluster.max_timeouts")
    elif cause == Cause.NODE_FAILURE:
        may_go_on, reason = _compare(cause, number, limits.max_node_failures, "cluster.max_node_failures")
    elif cause in (Cause.KILLED, Cause.STALLED):
        number = counts[Cause.KILLED] + counts[Cause.STALLED] + 1
        may_go_on, reason = _compare("killed or stalled", number, limits.max_crashes, "cluster.max_crashes")
    else:
        return False, ""
    if limits.requeue == "off" and may_go_on:
        return False, f"{reason}; cluster.requeue is off"
    return may_go_on, reason


def _compare(name: str, number: int, limit: int, field_name: str) -> tuple[bool, str]:
    if number <= limit:
        return True, f"{name} {number} of {limit}"
    return False, f"{name} {_times(number)}, and {field_name} is {limit}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _follow_up(facts: AttemptFacts, cause: str, *, may_go_on: bool) -> FollowUp:
    if cause in (Cause.FINISHED, SUPERSEDED):
        return FollowUp.NOTHING
    if facts.is_requeued_by_slurm:
        return FollowUp.BY_SLURM
    if not may_go_on:
        return FollowUp.NOTHING
    if facts.recorded is not None and facts.job is not None and not facts.job.is_running:
        return FollowUp.BY_SUCCESSOR
    return FollowUp.REQUEUE


def _outcome(facts: AttemptFacts, cause: str, follow_up: FollowUp) -> str:
    if cause == Cause.FINISHED:
        return AttemptEnded.FINISHED
    if facts.recorded is not None:
        return facts.recorded.outcome
    is_stopped = facts.stop_signal is not None or facts.lost_state is not None or cause == Cause.CANCELLED
    return AttemptEnded.STOPPED if is_stopped or follow_up is not FollowUp.NOTHING else AttemptEnded.FAILED


def state_of_start(starts: Sequence[JobAttempt], began: float) -> str:
    """Return accounting's state of the start of a job that an attempt was; "" where it has none.

    Args:
        starts: those that are over, oldest first. One after the attempt's own may have ended before it could begin an
            attempt.
        began: when the attempt began, in seconds since 1970.
    """
    own = [start for start in starts if start.began is None or start.began <= began] or starts
    return own[-1].state if own else ""
