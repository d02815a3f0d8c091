"""Why an attempt ended and whether the run goes on: tables of what Slurm says, signals, and what ranks have left."""

from __future__ import annotations

import signal

import pytest

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_output import JobRecord
from hpc_yolo.requeue import (
    count_causes,
    decide,
    end_of_lost_attempt,
    exit_cause,
    failed_nodes,
    lost_attempt,
    stop_cause,
)
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause, RankPlace
from hpc_yolo.runs.failures import Failure
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.submit.after_job import conclude_job

RUNNING = JobRecord("RUNNING", 0, is_being_preempted=False)
PREEMPTED = JobRecord("RUNNING", 0, is_being_preempted=True)
BACK_IN_QUEUE = JobRecord("COMPLETING", 1, is_being_preempted=False)
CANCELLED = JobRecord("COMPLETING", 0, is_being_preempted=False)


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
    assert exit_cause(status, failures, job, restart=1) == expected


@pytest.mark.parametrize(
    ("cause", "num_before", "cluster", "expected", "words"),
    [
        (Cause.PREEMPTED, 99, {}, True, "preempted 100 times, without a limit"),
        (Cause.TIME_LIMIT, 19, {}, True, "time limit 20 of 20"),
        (Cause.TIME_LIMIT, 20, {}, False, "time limit 21 times, and cluster.max_timeouts is 20"),
        (Cause.NODE_FAILURE, 2, {}, True, "node failure 3 of 3"),
        (Cause.NODE_FAILURE, 3, {}, False, "cluster.max_node_failures is 3"),
        (Cause.KILLED, 0, {"max_kills": 0}, False, "killed or stalled once, and cluster.max_kills is 0"),
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
    assert not decide(Cause.STALLED, events, ClusterSpec(max_kills=2)).again
    assert decide(Cause.KILLED, events, ClusterSpec(max_kills=3)).again


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["NODE_FAIL"], Cause.NODE_FAILURE),
        (["NODE_FAIL", "PREEMPTED"], Cause.PREEMPTED),
        (["REQUEUED"], Cause.PREEMPTED),
        (["TIMEOUT"], Cause.TIME_LIMIT),
        (["CANCELLED"], Cause.CANCELLED),
        (["OUT_OF_MEMORY"], Cause.KILLED),
        ([], Cause.KILLED),
    ],
)
def test_slurm_says_why_an_attempt_ended_that_left_no_word(monkeypatch, states, expected):
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.earlier_states", lambda _job: states)
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.nodes_down", sorted)
    events = [started(1), ended(1, Cause.PREEMPTED), started(2)]
    lost = lost_attempt(events)
    assert lost is not None
    assert lost.attempt == 2
    told = end_of_lost_attempt(lost, last_step=5)
    assert (told.cause, told.step) == (expected, 5)
    nodes = ["gpu02"] if expected == Cause.NODE_FAILURE else []
    assert failed_nodes([told]) == nodes
    assert lost_attempt([*events, ended(2, told.cause)]) is None


@pytest.mark.parametrize("status", [9, 143])
def test_a_job_that_never_held_the_run_writes_nothing_into_it(tmp_path, monkeypatch, status):
    """Its tasks lost to another start, or were stopped before they could begin."""
    monkeypatch.setattr("hpc_yolo.submit.after_job.job_of", lambda _process: CANCELLED)
    run = RunDirectory(tmp_path / "run")
    run.create()
    JournalWriter(run.journal, attempt=1).write(started())
    before = read_events(run.journal)
    process = ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single", job_id="8", attempt=1)
    assert conclude_job(run, Spec(name="run", data="d"), process, status) == status
    assert read_events(run.journal) == before
