"""However Slurm or a failure interrupts a run on two nodes, it ends with the very same weights."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from spec_runs import SLOW_MODEL
from tensor_digest import digest
from waiting import wait_until

from hpc_yolo.cluster.scheduler import job_record
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause, StepLogged
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.runs.time_ledger import Ledger, make_ledger

SLURM_TIME = "%Y-%m-%dT%H:%M:%S"
CLUSTER = {"nodes": 2, "tasks_per_node": 1, "partition": "preempt"}
# Warm-up without steps, so that a few steps change the weights; enough steps for something to come in between.
EPOCHS = 16
TRAIN: dict[str, object] = {
    "epochs": EPOCHS,
    "val_every": EPOCHS,
    "hyp_overrides": {"warmup_epochs": 0},
    "stall_timeout_s": 10,
}
CHECKPOINT = {"every_steps": 10, "every_s": None}
NUM_STEPS = EPOCHS * 5
CHANCE = random.Random(20)


@pytest.fixture
def submitted(in_slurm, write_spec, hpc_yolo, tmp_path):
    """Submit a run of that name; (its directory, its job's id)."""

    def submit(name: str, epochs: int = EPOCHS, **cluster: str) -> tuple[RunDirectory, str]:
        train = TRAIN | {"epochs": epochs, "val_every": epochs}
        spec = write_spec(name, cluster=CLUSTER | cluster, train=train, checkpoint=CHECKPOINT, model=SLOW_MODEL)
        hpc_yolo("submit", spec)
        run = RunDirectory(tmp_path / "runs" / name)
        return run, json.loads(run.submissions.read_text())["job_id"]

    return submit


@pytest.fixture
def undisturbed(submitted, in_slurm, known_digests) -> str:
    """The digest of a run that nobody touched; the first test to ask for it makes one."""
    if not known_digests:
        run, job_id = submitted("undisturbed")
        assert in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"}) == "COMPLETED"
        known_digests.append(digest(run))
    return known_digests[0]


@pytest.fixture(scope="session")
def known_digests() -> list[str]:
    return []


def preempt(cluster, _job_id: str, _pids: list[int]) -> None:
    cluster.submit("#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive")


def preempt_without_grace(cluster, job_id: str, pids: list[int]) -> None:
    cluster.run("scontrol", "update", "PartitionName=preempt", "GraceTime=0")
    try:
        preempt(cluster, job_id, pids)
        wait_until(lambda: cluster.job_state(job_id) != "RUNNING", "the preemption")
    finally:
        cluster.run("scontrol", "update", "PartitionName=preempt", "GraceTime=20")


def signal_tasks(cluster, job_id: str, _pids: list[int]) -> None:
    cluster.run("scancel", "--signal=TERM", job_id)


def warn_of_time_limit(cluster, job_id: str, _pids: list[int]) -> None:
    cluster.run("scancel", "--signal=USR2", job_id)


def queue_again(cluster, job_id: str, _pids: list[int]) -> None:
    cluster.run("scontrol", "requeue", job_id)


def kill_first_rank(_cluster, _job_id: str, pids: list[int]) -> None:
    os.kill(pids[0], signal.SIGKILL)


def kill_last_rank(_cluster, _job_id: str, pids: list[int]) -> None:
    os.kill(pids[-1], signal.SIGKILL)


def kill_srun(_cluster, job_id: str, _pids: list[int]) -> None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "comm").read_text().strip() == "srun":
            environ = (entry / "environ").read_bytes().split(b"\0")
            if f"SLURM_JOB_ID={job_id}".encode() in environ:
                os.kill(int(entry.name), signal.SIGKILL)


def kill_last_stepd(_cluster, _job_id: str, pids: list[int]) -> None:
    """The daemon of Slurm's that looks after a node's tasks of a step."""
    parent = int(Path("/proc", str(pids[-1]), "stat").read_text().rpartition(")")[2].split()[1])
    assert (Path("/proc", str(parent), "comm").read_text().strip()) == "slurmstepd"
    os.kill(parent, signal.SIGKILL)


def stop_last_rank(_cluster, _job_id: str, pids: list[int]) -> None:
    os.kill(pids[-1], signal.SIGSTOP)


def lose_second_node(cluster, job_id: str, _pids: list[int]) -> None:
    """The batch script and rank 0 live on."""
    cluster.lose_node("gpu02")
    bring_back(cluster, job_id, "gpu02")


def lose_first_node(cluster, job_id: str, _pids: list[int]) -> None:
    """With rank 0, srun and the batch script."""
    cluster.lose_node("gpu01")
    bring_back(cluster, job_id, "gpu01")


def bring_back(cluster, job_id: str, node: str) -> None:
    """Start a lost node once its job has left it; there are no others that could take its place."""
    wait_until(lambda: cluster.job_state(job_id) == "PENDING", "the job to be queued again")
    cluster.start_daemon(node)
    cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)


INTERRUPTIONS = [
    pytest.param(preempt, Cause.PREEMPTED, marks=pytest.mark.slurm_quick("preempt and resume")),
    *(
        pytest.param(interrupt, cause, marks=pytest.mark.soak)
        for interrupt, cause in (
            (preempt_without_grace, Cause.PREEMPTED),
            (signal_tasks, Cause.PREEMPTED),
            (queue_again, Cause.PREEMPTED),
            (warn_of_time_limit, Cause.TIME_LIMIT),
            (kill_first_rank, Cause.KILLED),
            (kill_last_rank, Cause.KILLED),
            (kill_srun, Cause.KILLED),
            (stop_last_rank, Cause.STALLED),
            (lose_first_node, Cause.NODE_FAILURE),
            (lose_second_node, Cause.NODE_FAILURE),
        )
    ),
]


@pytest.mark.parametrize(("interrupt", "cause"), INTERRUPTIONS, ids=lambda item: getattr(item, "__name__", item))
def test_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(
    submitted, in_slurm, events_of, undisturbed, interrupt, cause
):
    name = interrupt.__name__
    run, job_id = submitted(name)
    times, at_step = 1, CHANCE.randrange(5, 30)
    wait_until(functools.partial(has_come_to, run, 1, at_step), f"step {at_step}")
    interrupt(in_slurm, job_id, [place.pid for place in events_of(name, AttemptStarted)[-1].ranks])
    ended = last_state(in_slurm, job_id, run)
    log = (run.jobs / f"{job_id}.log").read_text()
    assert ended in ("COMPLETED", "PREEMPTED"), log
    starts = events_of(name, AttemptStarted)
    # The last word of each: where srun is killed, the script and the tasks that outlive it both tell of their end.
    ends = list({event.attempt: event for event in events_of(name, AttemptEnded)}.values())
    assert (ends[-1].outcome, ends[-1].step) == (AttemptEnded.FINISHED, NUM_STEPS), log
    assert digest(run) == undisturbed
    if cause == Cause.NODE_FAILURE:  # see the test of Slurm's late request
        times += len(ends[times:-1])
    assert (len(starts), len(ends)) == (times + 1, times + 1), log
    # Tasks outlive their srun for a moment, in which Slurm may ask them to leave: they save then, and nothing is lost.
    is_asked_too = interrupt is kill_srun or cause == Cause.NODE_FAILURE
    causes = {cause, Cause.PREEMPTED} if is_asked_too else {cause}
    for end, following in zip(ends, starts[1:], strict=False):
        assert (end.cause in causes, end.requeued) == (True, True), log
        if cause in (Cause.KILLED, Cause.STALLED, Cause.NODE_FAILURE):
            assert end.step - following.step <= CHECKPOINT["every_steps"], "at most one interval is done again"
        else:
            assert end.step == following.step, "no step is lost or done twice"
    events, submitted_s = read_events(run.journal), all_submissions(run)[0].time
    shown = dict(
        word.partition("=")[::2] for word in in_slurm.run("scontrol", "--oneliner", "show", "job", job_id).split()
    )
    assert (shown["JobState"], shown["Restarts"]) == (ended, str(times)), "Slurm starts no finished run again"
    ledger = make_ledger(events, [submitted_s])
    assert ledger.total_s == pytest.approx(events[-1].time - submitted_s, rel=0.01), "every wall second is in it"
    if interrupt is preempt:
        agrees_with_books(ledger, in_slurm, job_id)


def last_state(cluster, job_id: str, run: RunDirectory) -> str:
    """The state in which a job has ended for good.

    24.05 to 25.05 show a job that was requeued in its grace time as PREEMPTED at its next end, whatever that is.
    """

    def is_over() -> bool:
        state = cluster.job_state(job_id)
        return state in ("COMPLETED", "FAILED", "CANCELLED") or (state == "PREEMPTED" and is_finished(run))

    wait_until(is_over, f"job {job_id} to end", lambda: f"it is {cluster.job_state(job_id)}")
    return cluster.job_state(job_id)


def is_finished(run: RunDirectory) -> bool:
    ends = [event for event in read_events(run.journal) if isinstance(event, AttemptEnded)]
    return bool(ends) and ends[-1].outcome == AttemptEnded.FINISHED


def has_come_to(run: RunDirectory, attempt: int, step: int) -> bool:
    """Whether that attempt has come as far as `step`."""
    steps = (event for event in read_events(run.journal) if isinstance(event, StepLogged))
    return any(event.attempt == attempt and event.step >= step for event in steps)


def agrees_with_books(ledger: Ledger, cluster, job_id: str) -> None:
    """Slurm's own times of the job's starts and ends, in whole seconds, against those that the run has of itself."""
    command = ("sacct", "--duplicates", "--allocations", "--noheader", "--parsable2", f"--jobs={job_id}")
    books = [line.split("|") for line in cluster.run(*command, "--format=Start,End").splitlines()]
    spans = [[time.mktime(time.strptime(word, SLURM_TIME)) for word in line] for line in books]
    assert len(spans) == len(ledger.attempts)
    for attempt, (start, end) in zip(ledger.attempts, spans, strict=True):
        print(f"ledger {attempt.begin:.1f} {attempt.end:.1f} {attempt.seconds}, Slurm {start:.0f} {end:.0f}")
        # How long Python takes to start, and Slurm to notice an end, is a matter of the machine.
        assert start - 1 <= attempt.begin < attempt.end <= end + 1, "an attempt lies within a start of its job"


def ended_chain(run: RunDirectory, cluster) -> dict[str, str]:
    """Slurm's words for all jobs of a run, once none of them waits or runs."""
    wait_until(lambda: not cluster.run("squeue", "--noheader", "--format=%A").split(), "all jobs to end")
    return {submission.job_id: cluster.job_state(submission.job_id) for submission in all_submissions(run)}


@pytest.mark.soak
@pytest.mark.slurm_quick("chain")
def test_chain_continues_in_the_next_job_and_drops_the_last_one(
    submitted, in_slurm, events_of, undisturbed, hpc_yolo, tmp_path
):
    run, job_id = submitted("chain", requeue="chain")
    wait_until(lambda: any(event.step >= 15 for event in events_of("chain", StepLogged)), "step 15")
    (facts,) = json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)[:1]
    assert (facts["name"], facts["state"], facts["job_id"]) == ("chain", "running", job_id), "not the one that waits"
    again = hpc_yolo("submit", tmp_path / "chain.yaml", check=False)
    assert "already queued" in again.stderr
    preempt(in_slurm, job_id, [])
    states = ended_chain(run, in_slurm)
    first_state, *others = states.values()
    assert first_state in ("FAILED", "PREEMPTED"), "since 24.05 a job that leaves during its grace time is preempted"
    assert others == ["COMPLETED", "CANCELLED"], "the last one waited for nothing"
    first, second = events_of("chain", AttemptStarted)
    (ended, finished) = events_of("chain", AttemptEnded)
    assert (ended.cause, ended.requeued, ended.step) == (Cause.PREEMPTED, True, second.step)
    assert (first.job_id, second.job_id) == tuple(states)[:2]
    assert finished.outcome == AttemptEnded.FINISHED
    assert digest(run) == undisturbed


@pytest.mark.soak
@pytest.mark.parametrize("node", ["gpu01", "gpu02"])
def test_chain_continues_after_a_lost_node(submitted, in_slurm, events_of, undisturbed, node):
    run, job_id = submitted(node, requeue="chain")
    wait_until(functools.partial(has_come_to, run, 1, 15), "step 15")
    in_slurm.lose_node(node)
    wait_until(lambda: in_slurm.job_state(job_id) not in ("RUNNING", "COMPLETING"), "the job's end")
    in_slurm.start_daemon(node)
    in_slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
    states = ended_chain(run, in_slurm)
    assert list(states.values())[1:] == ["COMPLETED", "CANCELLED"], states
    ended = events_of(node, AttemptEnded)[0]
    second = events_of(node, AttemptStarted)[1]
    assert (ended.cause, ended.requeued) == (Cause.NODE_FAILURE, True)
    assert ended.step - second.step <= CHECKPOINT["every_steps"]
    assert digest(run) == undisturbed


@pytest.mark.soak
def test_late_request_to_end_a_lost_step_costs_no_step(submitted, in_slurm, events_of):
    """srun has asked to end the step; Slurm repeats the request to the lost node after a minute.

    By then the node is back and the next start of the job trains on it, in a step of the same number.
    """
    run, job_id = submitted("late-request", epochs=2000)
    wait_until(functools.partial(has_come_to, run, 1, 15), "step 15")
    lose_second_node(in_slurm, job_id, [])
    wait_until(lambda: job_record(job_id).restarts == 2, "the request")
    num_attempts = len(events_of("late-request", AttemptStarted))
    wait_until(lambda: has_come_to(run, num_attempts + 1, 0), "the next attempt's first step")
    lost, *asked = events_of("late-request", AttemptEnded)
    assert (lost.cause, lost.requeued) == (Cause.NODE_FAILURE, True)
    # On a slow machine the second start is ended before it begins an attempt.
    assert [(end.cause, end.requeued) for end in asked] == [(Cause.PREEMPTED, True)] * (num_attempts - 1)
    starts = events_of("late-request", AttemptStarted)
    assert [end.step for end in asked] == [start.step for start in starts[2:]], "no step is lost or done twice"


def kill_rank_too_often(cluster, run: RunDirectory, job_id: str, pids: list[int]) -> None:
    (run.path / "spec.yaml").write_text(run.spec.read_text().replace("max_crashes: 3", "max_crashes: 0"))
    kill_last_rank(cluster, job_id, pids)


def cancel(cluster, _run: RunDirectory, job_id: str, _pids: list[int]) -> None:
    cluster.run("scancel", job_id)


@pytest.mark.soak
@pytest.mark.parametrize("end", [kill_rank_too_often, cancel], ids=lambda end: end.__name__)
def test_chain_ends_after_a_cancelled_or_failed_job(submitted, in_slurm, events_of, hpc_yolo, tmp_path, end):
    name = f"chain-{end.__name__}"
    run, job_id = submitted(name, requeue="chain")
    wait_until(lambda: events_of(name, StepLogged), "the first steps")
    end(in_slurm, run, job_id, [place.pid for place in events_of(name, AttemptStarted)[0].ranks])
    assert len(ended_chain(run, in_slurm)) == 2
    assert len(events_of(name, AttemptStarted)) == 1, "the successor has not trained"
    (facts,) = json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)
    assert facts["state"] == ("cancelled" if end is cancel else "failed")


@pytest.mark.soak
def test_killed_slurmstepd_changes_nothing(submitted, in_slurm, events_of, undisturbed):
    """Slurm does not notice, the tasks do not need it, and the job ends well."""
    run, job_id = submitted("stepd")
    wait_until(lambda: events_of("stepd", StepLogged), "the first steps")
    (started,) = events_of("stepd", AttemptStarted)
    kill_last_stepd(in_slurm, job_id, [place.pid for place in started.ranks])
    assert in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"}) == "COMPLETED"
    assert digest(run) == undisturbed


@pytest.mark.soak
def test_run_whose_tasks_are_killed_too_often_ends_with_a_message(submitted, in_slurm, events_of, hpc_yolo, tmp_path):
    run, job_id = submitted("hopeless")
    (run.path / "spec.yaml").write_text(run.spec.read_text().replace("max_crashes: 3", "max_crashes: 0"))
    wait_until(lambda: events_of("hopeless", StepLogged), "the first steps")
    kill_last_rank(in_slurm, job_id, [place.pid for place in events_of("hopeless", AttemptStarted)[0].ranks])
    assert in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"}) == "FAILED"
    (end,) = events_of("hopeless", AttemptEnded)
    assert (end.outcome, end.cause, end.requeued) == (AttemptEnded.FAILED, Cause.KILLED, False)
    assert "cluster.max_crashes is 0" in end.detail
    (facts,) = json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)
    assert facts["state"] == "failed"
