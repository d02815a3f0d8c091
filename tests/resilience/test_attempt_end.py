"""Why an attempt ended and whether the run goes on: tables of what Slurm says, signals, and what ranks have left."""

from __future__ import annotations

import signal

import pytest

from hpc_yolo.cluster.slurm_output import EndedStart, JobRecord
from hpc_yolo.cluster.srun_output import TaskEnd
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.resilience.attempt_end import (
    StepEnd,
    cause_of_start,
    count_causes,
    decide,
    exit_cause,
    failed_nodes,
    has_stepped,
    is_idle,
    lost_attempt,
    stop_cause,
)
from hpc_yolo.resilience.requeue import end_of_lost_attempt
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, AttemptStarted, Cause, EpochEnded, RankPlace, StepLogged
from hpc_yolo.runs.failures import Failure
from hpc_yolo.spec.schema import ClusterSpec

RUNNING = JobRecord("RUNNING", 0, is_being_preempted=False)
PREEMPTED = JobRecord("RUNNING", 0, is_being_preempted=True)
BACK_IN_QUEUE = JobRecord("COMPLETING", 1, is_being_preempted=False)
CANCELLED = JobRecord("COMPLETING", 0, is_being_preempted=False)
AT_LIMIT = JobRecord("COMPLETING", 0, is_being_preempted=False, is_at_limit=True)
TERMINATED = TaskEnd("n1", (0, 1), "Terminated", ExitStatus(143))
CRASHED = TaskEnd("n2", (3,), "Segmentation fault", ExitStatus(139))
ECHOED = TaskEnd("n1", (1,), "Exited with exit code 1", ExitStatus(1))


NO_FIGURES = {
    **dict.fromkeys(("box", "obj", "cls", "grad_norm")),
    **{"lr": 0.1, "images_per_s": 1.0, "rank_step_s": [], "rank_data_wait_s": [], "rank_mem_bytes": []},
}


def ended(attempt: int, cause: str, **fields: object) -> AttemptEnded:
    return AttemptEnded(attempt=attempt, outcome=AttemptEnded.STOPPED, epoch=0, step=0, cause=cause, **fields)


def started(attempt: int = 1, job_id: str | None = "7", launcher: str = "slurm") -> AttemptStarted:
    place = RankPlace(rank=0, local_rank=0, node_rank=0, host="gpu02", pid=1)
    figures = {"world_size": 1, "num_nodes": 1, "batch": 1, "epochs": 1, "steps_per_epoch": 1, "num_images": 1}
    return AttemptStarted(
        attempt=attempt,
        job_id=job_id,
        launcher=launcher,
        device="cpu",
        precision="float32",
        epoch=0,
        step=0,
        ranks=[place],
        **figures,
    )


def failure(*, is_echo: bool, exit_code: int = 1) -> Failure:
    fields = {"time": 0.0, "rank": 1, "host": "h", "job_id": "7", "kind": "K", "message": "m", "traceback": ""}
    return Failure(**fields, exit_code=exit_code, is_echo=is_echo)


@pytest.mark.parametrize(
    ("number", "job", "expected"),
    [
        (signal.SIGTERM, PREEMPTED, Cause.PREEMPTED),
        (signal.SIGTERM, BACK_IN_QUEUE, Cause.PREEMPTED),
        (signal.SIGTERM, RUNNING, Cause.PREEMPTED),
        (signal.SIGTERM, CANCELLED, Cause.CANCELLED),
        (signal.SIGTERM, None, Cause.PREEMPTED),
        (signal.SIGTERM, AT_LIMIT, Cause.TIME_LIMIT),  # nobody had asked for a warning before it
        (signal.SIGUSR2, RUNNING, Cause.TIME_LIMIT),
        (signal.SIGUSR2, PREEMPTED, Cause.PREEMPTED),  # a site that tells of a preemption by this signal
        (signal.SIGINT, RUNNING, Cause.INTERRUPTED),
    ],
)
def test_a_signal_and_slurms_words_are_a_cause(number, job, expected):
    assert stop_cause(number, job, restart=1) == expected


@pytest.mark.parametrize(
    ("status", "failures", "job", "expected"),
    [
        (137, [], RUNNING, Cause.KILLED),
        (137, [failure(is_echo=True)], RUNNING, Cause.KILLED),
        (1, [failure(is_echo=True)], RUNNING, Cause.KILLED),
        (1, [failure(is_echo=True), failure(is_echo=False)], RUNNING, Cause.ERROR),
        (137, [failure(is_echo=False)], RUNNING, Cause.ERROR),
        (10, [failure(is_echo=False, exit_code=10)], RUNNING, Cause.STALLED),
        (10, [failure(is_echo=True, exit_code=10)], RUNNING, Cause.KILLED),
        (10, [failure(is_echo=False, exit_code=10), failure(is_echo=False)], RUNNING, Cause.ERROR),
        (1, [], RUNNING, Cause.ERROR),
        (143, [], PREEMPTED, Cause.PREEMPTED),
        (143, [], CANCELLED, Cause.CANCELLED),
        (140, [], RUNNING, Cause.TIME_LIMIT),
    ],
)
def test_an_exit_code_and_last_words_are_a_cause(status, failures, job, expected):
    assert exit_cause(StepEnd(ExitStatus(status)), failures, job, restart=1) == expected


@pytest.mark.parametrize(
    ("ends", "failures", "job", "expected"),
    [
        # Its peers get SIGTERM, so that srun ends with 143: not a preemption, and with a limit.
        ([CRASHED, TERMINATED], [], RUNNING, Cause.KILLED),
        ([TERMINATED, CRASHED], [], RUNNING, Cause.PREEMPTED),
        ([TERMINATED], [], PREEMPTED, Cause.PREEMPTED),
        ([TERMINATED], [], CANCELLED, Cause.CANCELLED),
        ([ECHOED, CRASHED, TERMINATED], [failure(is_echo=True)], RUNNING, Cause.KILLED),
        ([ECHOED, TERMINATED], [], RUNNING, Cause.ERROR),
        (
            [TaskEnd("n1", (0,), "Exited with exit code 140", ExitStatus(140)), TERMINATED],
            [],
            RUNNING,
            Cause.TIME_LIMIT,
        ),
        ([TaskEnd("n1", (0,), "Vanished", None)], [], RUNNING, Cause.PREEMPTED),  # as srun's own status says
    ],
)
def test_the_cause_is_that_of_the_task_that_ended_first(ends, failures, job, expected):
    assert exit_cause(StepEnd(ExitStatus(143), ends), failures, job, restart=1) == expected


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([], Cause.OUT_OF_MEMORY),
        ([failure(is_echo=True, exit_code=11)], Cause.OUT_OF_MEMORY),  # a loader worker was the one that was killed
        ([failure(is_echo=False)], Cause.ERROR),
    ],
)
def test_memory_that_ran_out_is_a_cause_of_its_own(failures, expected):
    """Requeued unchanged it runs out again: it was tried three times, and memory was never mentioned."""
    assert (
        exit_cause(StepEnd(ExitStatus(1), [CRASHED], is_out_of_memory=True), failures, RUNNING, restart=1) == expected
    )
    assert not decide(Cause.OUT_OF_MEMORY, [], ClusterSpec()).again


@pytest.mark.parametrize(
    ("cause", "stepped", "job", "expected"),
    [
        (Cause.TIME_LIMIT, False, RUNNING, True),
        (Cause.TIME_LIMIT, True, RUNNING, False),
        (Cause.PREEMPTED, False, RUNNING, True),  # somebody sent SIGTERM
        (Cause.PREEMPTED, False, None, True),
        (Cause.PREEMPTED, False, PREEMPTED, False),  # Slurm says so: it may come as often as it likes
        (Cause.PREEMPTED, False, BACK_IN_QUEUE, False),
        (Cause.KILLED, False, RUNNING, False),  # has a limit of its own
    ],
)
def test_an_attempt_without_a_step_is_idle_unless_slurm_took_its_nodes(cause, stepped, job, expected):
    assert is_idle(cause, has_stepped=stepped, job=job, restart=1) is expected


@pytest.mark.parametrize(
    ("before", "idle", "expected"),
    [
        ([], True, True),
        ([("idle", 1)], True, False),
        ([("idle", 1)], False, True),
        ([("idle", 1), ("worked", 2)], True, True),
        ([("worked", 1), ("idle", 2)], True, False),
    ],
)
@pytest.mark.parametrize("cause", [Cause.TIME_LIMIT, Cause.PREEMPTED])
def test_two_idle_attempts_in_a_row_end_the_run(before, idle, expected, cause):
    """A start that takes longer than the time limit was queued again twenty times without one step."""
    events = [ended(number, cause, is_idle=kind == "idle") for kind, number in before]
    decision = decide(cause, events, ClusterSpec(), is_idle=idle)
    assert decision.again is expected
    assert expected or "for the second time in a row before the first step" in decision.words


def test_steps_of_other_attempts_do_not_count():
    figures = {"box": 1.0, "obj": 1.0, "cls": 1.0, "lr": 0.1, "images_per_s": 1.0, "seconds": 1.0}
    step = EpochEnded(attempt=1, epoch=0, step=9, **figures)
    assert has_stepped([started(1), step], 1)
    assert not has_stepped([started(1), step, started(2)], 2)
    assert not has_stepped([], 1)


@pytest.mark.parametrize(
    ("cause", "num_before", "cluster", "expected", "words"),
    [
        (Cause.PREEMPTED, 99, {}, True, "preempted 100 times, without a limit"),
        (Cause.TIME_LIMIT, 19, {}, True, "time limit 20 of 20"),
        (Cause.TIME_LIMIT, 20, {}, False, "time limit 21 times, and cluster.max_timeouts is 20"),
        (Cause.NODE_FAILURE, 2, {}, True, "node failure 3 of 3"),
        (Cause.NODE_FAILURE, 3, {}, False, "cluster.max_node_failures is 3"),
        (Cause.KILLED, 0, {"max_crashes": 0}, False, "killed or stalled once, and cluster.max_crashes is 0"),
        (Cause.KILLED, 0, {}, True, "killed or stalled 1 of 3"),
        (Cause.STALLED, 2, {}, True, "killed or stalled 3 of 3"),
        (Cause.PREEMPTED, 0, {"requeue": "off"}, False, "cluster.requeue is off"),
        (Cause.ERROR, 0, {}, False, ""),
        (Cause.CANCELLED, 0, {}, False, ""),
        (Cause.INTERRUPTED, 0, {}, False, ""),
    ],
)
def test_each_cause_has_its_own_limit(cause, num_before, cluster, expected, words):
    events = [ended(number, cause) for number in range(1, num_before + 1)]
    decision = decide(cause, events, ClusterSpec(**cluster))
    assert decision.again is expected
    assert words in decision.words


def test_of_an_attempt_the_last_word_counts():
    """Rank 0 says that the job goes back into the queue, and then that Slurm refused."""
    events = [ended(1, Cause.PREEMPTED), ended(1, Cause.PREEMPTED), ended(2, Cause.KILLED)]
    assert count_causes(events) == {Cause.PREEMPTED: 1, Cause.KILLED: 1}


def test_killed_and_stalled_attempts_have_one_limit():
    """What a memory killer does shows as the one or the other, by chance."""
    events = [ended(1, Cause.KILLED), ended(2, Cause.STALLED)]
    assert not decide(Cause.STALLED, events, ClusterSpec(max_crashes=2)).again
    assert decide(Cause.KILLED, events, ClusterSpec(max_crashes=3)).again


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["NODE_FAIL"], Cause.NODE_FAILURE),
        (["NODE_FAIL", "PREEMPTED"], Cause.PREEMPTED),
        (["REQUEUED"], Cause.PREEMPTED),
        (["TIMEOUT"], Cause.TIME_LIMIT),
        (["CANCELLED"], Cause.CANCELLED),
        (["OUT_OF_MEMORY"], Cause.OUT_OF_MEMORY),
        (["BOOT_FAIL"], Cause.NODE_FAILURE),
        (["A_STATE_OF_27_05"], Cause.KILLED),
        ([], Cause.KILLED),
    ],
)
def test_slurm_says_why_an_attempt_ended_that_left_no_word(monkeypatch, states, expected):
    starts = [EndedStart(state, None) for state in states]
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.earlier_starts", lambda _job: starts)
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.nodes_down", sorted)
    events: list[AnyEvent] = [started(1), ended(1, Cause.PREEMPTED), started(2)]
    lost = lost_attempt(events)
    assert lost is not None
    assert lost.attempt == 2
    told = end_of_lost_attempt(lost, [*events, StepLogged(attempt=2, step=5, epoch=0, **NO_FIGURES)])
    assert (told.cause, told.step, told.is_idle) == (expected, 5, False)
    assert end_of_lost_attempt(lost, events).is_idle == (expected == Cause.TIME_LIMIT)
    nodes = ["gpu02"] if expected == Cause.NODE_FAILURE else []
    assert failed_nodes([told]) == nodes
    assert lost_attempt([*events, ended(2, told.cause)]) is None


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([("NODE_FAIL", 90.0), ("REQUEUED", 150.0)], Cause.NODE_FAILURE),
        ([("PREEMPTED", 10.0), ("NODE_FAIL", 90.0), ("REQUEUED", 150.0), ("TIMEOUT", 200.0)], Cause.NODE_FAILURE),
        ([("PREEMPTED", 10.0), ("NODE_FAIL", None)], Cause.NODE_FAILURE),
        ([("NODE_FAIL", 100.5)], Cause.NODE_FAILURE),  # clocks that differ
    ],
)
def test_a_start_that_began_no_attempt_says_nothing_of_the_one_before(starts, expected):
    """Killed before it had the lease, by a late request: the lost node before it counts, and is avoided."""
    assert cause_of_start([EndedStart(*start) for start in starts], began=100.0) == expected
