"""However Slurm or a failure interrupts a run of two nodes with two tasks each, it ends with the very same weights."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from pathlib import Path

import pytest
from slurm_cluster import wait_until

from hpc_yolo.checkpoint import read_state
from hpc_yolo.checkpoint.store import saved_states
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause, StepLogged

CLUSTER = {"nodes": 2, "tasks_per_node": 2, "partition": "preempt"}
# Warm-up without steps, so that a few steps change the weights; enough steps for something to come in between.
TRAIN = {"epochs": 16, "val_every": 16, "hyp_overrides": {"warmup_epochs": 0}}
CHECKPOINT = {"every_steps": 10, "every_s": None}
NUM_STEPS = 16 * 5
CHANCE = random.Random(20)


def digest(run: RunDirectory) -> str:
    """SHA-256 of weights, averages and optimiser of the newest state."""
    tensors = read_state(saved_states(run)[0]).tensors
    summed = hashlib.sha256()
    for name in sorted(tensors):
        summed.update(name.encode() + tensors[name].numpy().tobytes())
    return summed.hexdigest()


@pytest.fixture
def submitted(in_slurm, write_spec, hpc_yolo, tmp_path):
    """Submit a run of that name; (its directory, its job's id)."""

    def submit(name: str, partition: str = "preempt") -> tuple[RunDirectory, str]:
        spec = write_spec(name, cluster=CLUSTER | {"partition": partition}, train=TRAIN, checkpoint=CHECKPOINT)
        hpc_yolo("submit", spec)
        run = RunDirectory(tmp_path / "runs" / name)
        return run, json.loads(run.submissions.read_text())["job_id"]

    return submit


@pytest.fixture(scope="session")
def undisturbed() -> dict[str, str]:
    """The digest of a run that nobody touched, once a test has made one."""
    return {}


def preempt(cluster, _job_id: str, _pids: list[int]) -> None:
    cluster.submit("#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive")


def preempt_without_grace(cluster, job_id: str, pids: list[int]) -> None:
    cluster.run("scontrol", "update", "PartitionName=preempt", "GraceTime=0")
    try:
        preempt(cluster, job_id, pids)
        wait_until(lambda: cluster.job_state(job_id) != "RUNNING", "the preemption", 30)
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


INTERRUPTIONS = [
    (preempt, Cause.PREEMPTED),
    (kill_last_rank, Cause.KILLED),
    *(
        pytest.param(interrupt, cause, marks=pytest.mark.soak)
        for interrupt, cause in (
            (preempt_without_grace, Cause.PREEMPTED),
            (signal_tasks, Cause.PREEMPTED),
            (queue_again, Cause.PREEMPTED),
            (warn_of_time_limit, Cause.TIME_LIMIT),
            (kill_first_rank, Cause.KILLED),
            (kill_srun, Cause.KILLED),
        )
    ),
]


@pytest.mark.parametrize(("interrupt", "cause"), INTERRUPTIONS, ids=lambda item: getattr(item, "__name__", item))
def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(
    submitted, in_slurm, events_of, undisturbed, interrupt, cause
):
    if not undisturbed:
        run, job_id = submitted("undisturbed")
        assert in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"}, timeout_s=240) == "COMPLETED"
        undisturbed["digest"] = digest(run)
    name = interrupt.__name__
    run, job_id = submitted(name)
    at_step = CHANCE.randrange(5, 40)
    wait_until(lambda: any(event.step >= at_step for event in events_of(name, StepLogged)), f"step {at_step}", 120)
    (started,) = events_of(name, AttemptStarted)
    interrupt(in_slurm, job_id, [place.pid for place in started.ranks])
    ended = in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED", "CANCELLED"}, timeout_s=240)
    log = (run.jobs / f"{job_id}.log").read_text()
    assert ended == "COMPLETED", log
    last = events_of(name, AttemptEnded)[-1]
    assert (last.outcome, last.step) == (AttemptEnded.FINISHED, NUM_STEPS), log
    assert digest(run) == undisturbed["digest"]
    first, second = events_of(name, AttemptStarted)
    (end,) = [event for event in events_of(name, AttemptEnded) if event.attempt == first.attempt]
    assert (end.cause, end.requeued) == (cause, True), log
    if cause == Cause.KILLED:
        assert end.step - second.step <= CHECKPOINT["every_steps"], "at most one interval is done again"
    else:
        assert end.step == second.step, "no step is lost or done twice"


@pytest.mark.soak
def test_a_run_whose_tasks_are_killed_too_often_ends_and_says_so(submitted, in_slurm, events_of, hpc_yolo, tmp_path):
    run, job_id = submitted("hopeless")
    (run.path / "spec.yaml").write_text(run.spec.read_text().replace("max_kills: 3", "max_kills: 0"))
    wait_until(lambda: events_of("hopeless", StepLogged), "the first steps", 120)
    kill_last_rank(in_slurm, job_id, [place.pid for place in events_of("hopeless", AttemptStarted)[0].ranks])
    assert in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"}, timeout_s=120) == "FAILED"
    (end,) = events_of("hopeless", AttemptEnded)
    assert (end.outcome, end.cause, end.requeued) == (AttemptEnded.FAILED, Cause.KILLED, False)
    assert "cluster.max_kills is 0" in end.detail
    (facts,) = json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)
    assert facts["state"] == "failed"
