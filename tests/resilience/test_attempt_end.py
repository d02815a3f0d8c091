"""The end of an attempt: tables of what Slurm reports, signals, exit statuses, the journal, and failures of ranks."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import pytest
from journal_events import ranks_on, started, stepped

from hpc_yolo.cluster.slurm_output import JobAttempt, JobRecord
from hpc_yolo.cluster.srun_output import TaskEnd
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.resilience.attempt_end import (
    SUPERSEDED,
    AttemptEnd,
    AttemptFacts,
    FollowUp,
    StepEnd,
    attempt_end,
    state_of_start,
)
from hpc_yolo.resilience.lost_attempt import end_of_lost_attempt
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, AttemptStarted, Cause, EpochEnded
from hpc_yolo.runs.failures import Failure
from hpc_yolo.spec.schema import ClusterSpec

RUNNING = JobRecord("RUNNING", 0, is_being_preempted=False)
PREEMPTED = JobRecord("RUNNING", 0, is_being_preempted=True)
BACK_IN_QUEUE = JobRecord("COMPLETING", 1, is_being_preempted=False)
CANCELLED = JobRecord("COMPLETING", 0, is_being_preempted=False)
AT_LIMIT = JobRecord("COMPLETING", 0, is_being_preempted=False, is_at_limit=True)
TERMINATED = TaskEnd("n1", (0, 1), "Terminated", ExitStatus(143))
CRASHED = TaskEnd("n2", (3,), "Segmentation fault", ExitStatus(139))
TIMED_OUT = TaskEnd("n1", (0,), "Exited with exit code 140", ExitStatus(140))
ECHOED = TaskEnd("n1", (1,), "Exited with exit code 1", ExitStatus(1))
VANISHED = TaskEnd("n1", (0,), "Vanished", None)

TERM, USR2, INT = signal.SIGTERM, signal.SIGUSR2, signal.SIGINT
REQUEUE, BY_SLURM, BY_SUCCESSOR, NOTHING = FollowUp
STOPPED, FAILED, FINISHED = AttemptEnded.STOPPED, AttemptEnded.FAILED, AttemptEnded.FINISHED


def start(attempt: int = 1, job_id: str | None = "7", launcher: str = "slurm") -> AttemptStarted:
    return started(attempt=attempt, job_id=job_id, launcher=launcher, ranks=ranks_on("gpu02"))


def ended(attempt: int, cause: str, **fields: Any) -> AttemptEnded:
    return AttemptEnded(attempt=attempt, outcome=fields.pop("outcome", STOPPED), epoch=0, step=0, cause=cause, **fields)


def failure(*, is_echo: bool = False, exit_code: int = 1) -> Failure:
    names = {"host": "h", "job_id": "7", "kind": "K", "message": "m", "traceback": ""}
    return Failure(time=0.0, rank=1, exit_code=exit_code, is_echo=is_echo, **names)


ECHO = failure(is_echo=True)
WORKED = (start(), stepped())  # the journal of an attempt that has done steps


def facts(events: Sequence[AnyEvent] = WORKED, limits: dict[str, Any] | None = None, **known: Any) -> AttemptFacts:
    """Return facts about attempt 1 of a run with the journal `events`, in its job's first start."""
    return AttemptFacts(ClusterSpec(**(limits or {})), Attempts(events), **{"number": 1, **known})


def end_of(*args: Any, **known: Any) -> AttemptEnd:
    return attempt_end(facts(*args, **known))


def tasks(status: int, *ends: TaskEnd, **fields: Any) -> StepEnd:
    return StepEnd(ExitStatus(status), ends, **fields)


def recorded(cause: str, *, requeued: bool = True, **fields: Any) -> tuple[AnyEvent, ...]:
    """Return the journal of an attempt that has recorded its end."""
    return (*WORKED, ended(1, cause, requeued=requeued, **fields))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        # Rank 0 leaves.
        ({"is_finished": True}, (Cause.FINISHED, FINISHED, NOTHING)),
        ({"stop_signal": TERM, "job": PREEMPTED}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        ({"stop_signal": TERM, "job": BACK_IN_QUEUE}, (Cause.PREEMPTED, STOPPED, BY_SLURM)),
        ({"stop_signal": TERM, "job": BACK_IN_QUEUE, "restart": 2}, (Cause.CANCELLED, STOPPED, NOTHING)),
        ({"stop_signal": TERM, "job": RUNNING}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        ({"stop_signal": TERM, "job": CANCELLED}, (Cause.CANCELLED, STOPPED, NOTHING)),
        ({"stop_signal": TERM}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        # No warning before the time limit was asked for.
        ({"stop_signal": TERM, "job": AT_LIMIT}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        ({"stop_signal": USR2, "job": RUNNING}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        ({"stop_signal": USR2}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        ({"stop_signal": USR2, "job": PREEMPTED}, (Cause.PREEMPTED, STOPPED, REQUEUE)),  # a site that signals so
        ({"stop_signal": INT, "job": RUNNING}, (Cause.INTERRUPTED, STOPPED, NOTHING)),
        ({"stop_signal": TERM, "is_in_slurm": False}, (Cause.INTERRUPTED, STOPPED, NOTHING)),
        ({"stop_signal": USR2, "is_in_slurm": False}, (Cause.INTERRUPTED, STOPPED, NOTHING)),
        # Rank 0 fails.
        ({"failures": [failure()]}, (Cause.ERROR, FAILED, NOTHING)),
        ({"failures": [failure(exit_code=12)]}, (Cause.CANCELLED, STOPPED, NOTHING)),
        ({"failures": [failure(exit_code=12), failure()]}, (Cause.ERROR, FAILED, NOTHING)),
        ({"failures": [failure(exit_code=10)]}, (Cause.STALLED, STOPPED, REQUEUE)),
        ({"failures": [ECHO]}, (Cause.KILLED, STOPPED, REQUEUE)),
        # The batch script after its tasks, by their exit status and the failures of ranks.
        ({"step": tasks(0)}, (Cause.FINISHED, FINISHED, NOTHING)),
        ({"step": tasks(9)}, (SUPERSEDED, FAILED, NOTHING)),
        ({"step": tasks(143), "is_finished": True}, (Cause.FINISHED, FINISHED, NOTHING)),
        ({"step": tasks(137), "job": RUNNING}, (Cause.KILLED, STOPPED, REQUEUE)),
        ({"step": tasks(137), "job": BACK_IN_QUEUE}, (Cause.KILLED, STOPPED, BY_SLURM)),
        ({"step": tasks(137), "failures": [ECHO]}, (Cause.KILLED, STOPPED, REQUEUE)),
        ({"step": tasks(1), "failures": [ECHO]}, (Cause.KILLED, STOPPED, REQUEUE)),
        ({"step": tasks(1), "failures": [ECHO, failure()]}, (Cause.ERROR, FAILED, NOTHING)),
        ({"step": tasks(137), "failures": [failure()]}, (Cause.ERROR, FAILED, NOTHING)),
        ({"step": tasks(10), "failures": [failure(exit_code=10)]}, (Cause.STALLED, STOPPED, REQUEUE)),
        ({"step": tasks(10), "failures": [failure(exit_code=10, is_echo=True)]}, (Cause.KILLED, STOPPED, REQUEUE)),
        ({"step": tasks(10), "failures": [failure(exit_code=10), failure()]}, (Cause.ERROR, FAILED, NOTHING)),
        ({"step": tasks(1), "job": RUNNING}, (Cause.ERROR, FAILED, NOTHING)),
        ({"step": tasks(255), "job": RUNNING}, (Cause.KILLED, STOPPED, REQUEUE)),  # no signal that has a name
        ({"step": tasks(143), "job": PREEMPTED}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        ({"step": tasks(143), "job": CANCELLED}, (Cause.CANCELLED, STOPPED, NOTHING)),
        ({"step": tasks(143), "job": AT_LIMIT}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        ({"step": tasks(140), "job": RUNNING}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        # The same, by the task that ended first: its peers get SIGTERM, so that srun ends with 143.
        ({"step": tasks(143, CRASHED, TERMINATED), "job": RUNNING}, (Cause.KILLED, STOPPED, REQUEUE)),
        ({"step": tasks(143, TERMINATED, CRASHED), "job": RUNNING}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        ({"step": tasks(143, TERMINATED), "job": PREEMPTED}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        ({"step": tasks(143, TERMINATED), "job": CANCELLED}, (Cause.CANCELLED, STOPPED, NOTHING)),
        ({"step": tasks(143, ECHOED, CRASHED, TERMINATED), "failures": [ECHO]}, (Cause.KILLED, STOPPED, REQUEUE)),
        ({"step": tasks(143, ECHOED, TERMINATED), "job": RUNNING}, (Cause.ERROR, FAILED, NOTHING)),
        ({"step": tasks(143, TIMED_OUT, TERMINATED), "job": RUNNING}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        ({"step": tasks(143, VANISHED), "job": RUNNING}, (Cause.PREEMPTED, STOPPED, REQUEUE)),  # by srun's own status
        # Out of memory: queued again unchanged, it would run out again.
        ({"step": tasks(1, CRASHED, is_out_of_memory=True)}, (Cause.OUT_OF_MEMORY, FAILED, NOTHING)),
        # A loader worker was the process that was killed.
        (
            {"step": tasks(1, is_out_of_memory=True), "failures": [failure(is_echo=True, exit_code=11)]},
            (Cause.OUT_OF_MEMORY, FAILED, NOTHING),
        ),
        ({"step": tasks(1, is_out_of_memory=True), "failures": [failure()]}, (Cause.ERROR, FAILED, NOTHING)),
        ({"step": tasks(137, is_out_of_memory=True), "job": BACK_IN_QUEUE}, (Cause.OUT_OF_MEMORY, STOPPED, BY_SLURM)),
        # The setup ended the job before its tasks.
        ({"setup_status": ExitStatus(0)}, (Cause.ERROR, FAILED, NOTHING)),
        ({"setup_status": ExitStatus(1), "job": CANCELLED}, (Cause.ERROR, FAILED, NOTHING)),
        ({"setup_status": ExitStatus(137), "job": RUNNING}, (Cause.ERROR, FAILED, NOTHING)),
        ({"setup_status": ExitStatus(143)}, (Cause.ERROR, FAILED, NOTHING)),
        ({"setup_status": ExitStatus(143), "job": PREEMPTED}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        ({"setup_status": ExitStatus(137), "job": BACK_IN_QUEUE}, (Cause.PREEMPTED, STOPPED, BY_SLURM)),
        ({"setup_status": ExitStatus(143), "job": CANCELLED}, (Cause.CANCELLED, STOPPED, NOTHING)),
        ({"setup_status": ExitStatus(143), "job": AT_LIMIT}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        # The next attempt finds no record of the end: by accounting's state of the start.
        ({"lost_state": "NODE_FAIL"}, (Cause.NODE_FAILURE, STOPPED, REQUEUE)),
        ({"lost_state": "BOOT_FAIL"}, (Cause.NODE_FAILURE, STOPPED, REQUEUE)),
        ({"lost_state": "PREEMPTED"}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        ({"lost_state": "REQUEUED"}, (Cause.PREEMPTED, STOPPED, REQUEUE)),
        ({"lost_state": "TIMEOUT"}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        ({"lost_state": "CANCELLED"}, (Cause.CANCELLED, STOPPED, NOTHING)),
        ({"lost_state": "DEADLINE"}, (Cause.CANCELLED, STOPPED, NOTHING)),
        ({"lost_state": "OUT_OF_MEMORY"}, (Cause.OUT_OF_MEMORY, STOPPED, NOTHING)),
        ({"lost_state": "A_STATE_OF_27_05"}, (Cause.KILLED, STOPPED, REQUEUE)),
        ({"lost_state": ""}, (Cause.KILLED, STOPPED, REQUEUE)),
    ],
)
def test_facts_give_cause_outcome_and_follow_up(known: dict[str, Any], expected: tuple[str, str, FollowUp]) -> None:
    end = end_of(**known)
    assert (end.cause, end.outcome, end.follow_up) == expected


@pytest.mark.parametrize(
    ("events", "known", "expected"),
    [
        # The batch script completes what rank 0 has recorded: a task in a container has no scontrol.
        (recorded(Cause.TIME_LIMIT), {"job": RUNNING}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        (recorded(Cause.TIME_LIMIT, requeued=False), {"job": RUNNING}, (Cause.TIME_LIMIT, STOPPED, REQUEUE)),
        (recorded(Cause.PREEMPTED), {"job": BACK_IN_QUEUE}, (Cause.PREEMPTED, STOPPED, BY_SLURM)),
        (recorded(Cause.PREEMPTED), {"job": CANCELLED}, (Cause.CANCELLED, STOPPED, NOTHING)),
        (recorded(Cause.PREEMPTED), {"job": AT_LIMIT}, (Cause.PREEMPTED, STOPPED, BY_SUCCESSOR)),
        (recorded(Cause.TIME_LIMIT), {"job": CANCELLED}, (Cause.TIME_LIMIT, STOPPED, BY_SUCCESSOR)),
        (recorded(Cause.PREEMPTED), {}, (Cause.PREEMPTED, STOPPED, REQUEUE)),  # Slurm does not answer
        (recorded(Cause.ERROR, requeued=False, outcome=FAILED), {"job": RUNNING}, (Cause.ERROR, FAILED, NOTHING)),
        (recorded(Cause.CANCELLED, requeued=False), {"job": RUNNING}, (Cause.CANCELLED, STOPPED, NOTHING)),
        (recorded(Cause.INTERRUPTED, requeued=False), {"job": RUNNING}, (Cause.INTERRUPTED, STOPPED, NOTHING)),
        (recorded(Cause.FINISHED, outcome=FINISHED), {"job": RUNNING}, (Cause.FINISHED, FINISHED, NOTHING)),
        (recorded(Cause.FINISHED, outcome=FINISHED), {"job": BACK_IN_QUEUE}, (Cause.FINISHED, FINISHED, NOTHING)),
        (recorded(Cause.PREEMPTED), {"step": tasks(9)}, (SUPERSEDED, STOPPED, NOTHING)),
        # Another attempt's record says nothing of this one.
        (recorded(Cause.ERROR), {"number": 2, "job": RUNNING}, (Cause.KILLED, STOPPED, REQUEUE)),
        (recorded(Cause.ERROR), {"number": None, "job": RUNNING}, (Cause.KILLED, STOPPED, REQUEUE)),
    ],
)
def test_recorded_end_is_kept_and_completed(
    events: Sequence[AnyEvent], known: dict[str, Any], expected: tuple[str, str, FollowUp]
) -> None:
    end = end_of(events, **{"step": tasks(137), **known})
    assert (end.cause, end.outcome, end.follow_up) == expected


@pytest.mark.parametrize(
    ("cause", "num_before", "limits", "expected", "reason"),
    [
        (Cause.PREEMPTED, 99, {}, True, "preempted 100 times, without a limit"),
        (Cause.TIME_LIMIT, 19, {}, True, "time limit 20 of 20"),
        (Cause.TIME_LIMIT, 20, {}, False, "time limit 21 times, and cluster.max_timeouts is 20"),
        (Cause.NODE_FAILURE, 2, {}, True, "node failure 3 of 3"),
        (Cause.NODE_FAILURE, 3, {}, False, "cluster.max_node_failures is 3"),
        (Cause.KILLED, 0, {"max_crashes": 0}, False, "killed or stalled once, and cluster.max_crashes is 0"),
        (Cause.KILLED, 0, {}, True, "killed or stalled 1 of 3"),
        (Cause.STALLED, 2, {}, True, "killed or stalled 3 of 3"),
        (Cause.PREEMPTED, 0, {"requeue": "off"}, False, "preempted once, without a limit; cluster.requeue is off"),
        (Cause.TIME_LIMIT, 20, {"requeue": "off"}, False, "cluster.max_timeouts is 20"),
        (Cause.OUT_OF_MEMORY, 0, {}, False, ""),
        (Cause.ERROR, 0, {}, False, ""),
        (Cause.CANCELLED, 0, {}, False, ""),
        (Cause.INTERRUPTED, 0, {}, False, ""),
    ],
)
def test_each_cause_has_its_own_limit(
    cause: str, num_before: int, limits: dict[str, Any], expected: bool, reason: str
) -> None:
    number = num_before + 1
    events = [ended(attempt, cause) for attempt in range(1, number + 1)]
    end = end_of(events, limits, number=number, step=tasks(137), job=RUNNING)
    assert (end.cause, end.goes_on) == (cause, expected)
    assert end.reason == reason or (reason and end.reason.endswith(reason))


def test_killed_and_stalled_attempts_share_one_limit() -> None:
    """An out-of-memory killer shows as the one or the other, by chance."""
    events = [ended(1, Cause.KILLED), ended(2, Cause.STALLED)]
    stalled = {"number": 3, "failures": [failure(exit_code=10)]}
    assert not end_of(events, {"max_crashes": 2}, **stalled).goes_on
    assert end_of(events, {"max_crashes": 3}, number=3, step=tasks(137)).goes_on


def test_last_record_of_an_attempt_is_the_one_that_counts() -> None:
    """Rank 0 records that the job goes back into the queue, and then that Slurm refused."""
    events = [ended(1, Cause.PREEMPTED), ended(1, Cause.TIME_LIMIT), ended(2, Cause.TIME_LIMIT)]
    assert end_of(events, number=3, stop_signal=USR2).reason == "time limit 3 of 20"
    assert end_of(events, number=3, stop_signal=TERM).reason == "preempted once, without a limit"


@pytest.mark.parametrize(
    ("events", "known", "expected"),
    [
        ([start()], {"stop_signal": USR2, "job": RUNNING}, True),
        (WORKED, {"stop_signal": USR2, "job": RUNNING}, False),
        ([start()], {"stop_signal": TERM, "job": RUNNING}, True),  # sent by anybody
        ([start()], {"stop_signal": TERM}, True),
        ([start()], {"stop_signal": TERM, "job": PREEMPTED}, False),  # Slurm confirms it: without a limit
        ([start()], {"stop_signal": TERM, "job": BACK_IN_QUEUE}, False),
        ([start()], {"step": tasks(137), "job": RUNNING}, False),  # has a limit of its own
        ([], {"number": None, "step": tasks(140), "job": RUNNING}, True),
        ([start()], {"lost_state": "TIMEOUT"}, True),
        (WORKED, {"lost_state": "TIMEOUT"}, False),
        ([start()], {"lost_state": "PREEMPTED"}, False),
        ([*WORKED, start(2)], {"number": 2, "stop_signal": USR2}, True),  # the steps are those of another attempt
        (recorded(Cause.TIME_LIMIT, is_idle=True), {"step": tasks(140)}, True),
    ],
)
def test_attempt_without_a_step_is_idle_unless_slurm_took_its_nodes(
    events: Sequence[AnyEvent], known: dict[str, Any], expected: bool
) -> None:
    assert end_of(events, **known).is_idle is expected


@pytest.mark.parametrize(
    ("before", "has_stepped", "expected"),
    [
        ([], False, True),
        ([True], False, False),
        ([True], True, True),
        ([True, False], False, True),
        ([False, True], False, False),
    ],
)
@pytest.mark.parametrize("stop_signal", [TERM, USR2])
def test_two_idle_attempts_in_a_row_end_the_run(
    before: list[bool], has_stepped: bool, expected: bool, stop_signal: signal.Signals
) -> None:
    """An attempt that needs longer to begin than the time limit was queued again twenty times without one step."""
    cause, number = (Cause.TIME_LIMIT if stop_signal == USR2 else Cause.PREEMPTED), len(before) + 1
    events: list[AnyEvent] = [ended(attempt, cause, is_idle=is_idle) for attempt, is_idle in enumerate(before, 1)]
    events += [start(number), stepped(attempt=number)] if has_stepped else [start(number)]
    end = end_of(events, number=number, stop_signal=stop_signal)
    assert end.goes_on is expected
    assert expected or "for the second time in a row before the first step" in end.reason


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["NODE_FAIL"], Cause.NODE_FAILURE),
        (["NODE_FAIL", "PREEMPTED"], Cause.PREEMPTED),
        (["TIMEOUT"], Cause.TIME_LIMIT),
        (["CANCELLED"], Cause.CANCELLED),
        ([], Cause.KILLED),
    ],
)
def test_end_of_a_lost_attempt_comes_from_accounting(
    monkeypatch: pytest.MonkeyPatch, states: list[str], expected: str
) -> None:
    starts = [JobAttempt(state, None) for state in states]
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.earlier_attempts", lambda _job: starts)
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.nodes_down", sorted)
    events: list[AnyEvent] = [start(1), ended(1, Cause.PREEMPTED), start(2)]
    attempts = Attempts([*events, stepped(attempt=2)])
    lost = attempts.lost
    assert lost is not None and lost.attempt == 2
    _, event = end_of_lost_attempt(lost, attempts, ClusterSpec())
    assert (event.cause, event.step, event.is_idle, event.requeued) == (expected, 5, False, True)
    _, idle = end_of_lost_attempt(lost, Attempts(events), ClusterSpec())
    assert idle.is_idle == (expected == Cause.TIME_LIMIT)
    assert event.failed_nodes == (["gpu02"] if expected == Cause.NODE_FAILURE else [])
    assert Attempts([*events, ended(2, expected)]).lost is None


def test_steps_are_counted_by_any_event_of_the_attempt() -> None:
    terms = {"losses": {"box": 1.0}, "lr": 0.1, "images_per_s": 1.0, "seconds": 1.0}
    epoch = EpochEnded(attempt=1, epoch=0, step=9, **terms)
    assert facts([start(1), epoch]).has_stepped
    assert not facts([start(1), epoch, start(2)], number=2).has_stepped
    assert not facts([]).has_stepped


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([("NODE_FAIL", 90.0), ("REQUEUED", 150.0)], "NODE_FAIL"),
        ([("PREEMPTED", 10.0), ("NODE_FAIL", 90.0), ("REQUEUED", 150.0), ("TIMEOUT", 200.0)], "NODE_FAIL"),
        ([("PREEMPTED", 10.0), ("NODE_FAIL", None)], "NODE_FAIL"),
        ([("NODE_FAIL", 100.5)], "NODE_FAIL"),  # clocks that differ
        ([], ""),
    ],
)
def test_start_that_began_no_attempt_does_not_count(starts: list[tuple[str, float | None]], expected: str) -> None:
    """Killed before it had the lease, by a late request: the lost node before it counts, and is avoided."""
    assert state_of_start([JobAttempt(*start) for start in starts], began=100.0) == expected
