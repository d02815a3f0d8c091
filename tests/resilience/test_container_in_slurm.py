"""Runs in containers on a real Slurm: real ones of Charliecloud, and a stand-in that changes the root directory.

In both the tasks have no command of Slurm, which the image lacks; what they need is there by the mounts of the script.
"""

from __future__ import annotations

import functools

import pytest
from sandbox_image import container_section, runtime_here, use_stand_in
from slurm_cluster import SlurmCluster
from spec_runs import SLOW_MODEL
from tensor_digest import digest
from waiting import wait_until

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause, StepLogged, WarningRaised
from hpc_yolo.runs.stages import read_stages
from hpc_yolo.runs.submissions import all_submissions

CLUSTER = {"nodes": 1, "tasks_per_node": 2, "partition": "preempt"}
TRAIN = {"epochs": 4, "val_every": 4, "hyp_overrides": {"warmup_epochs": 0}}
CHECKPOINT = {"every_steps": 10, "every_s": None}


@pytest.fixture
def container(tmp_path):
    return container_section(tmp_path / "image")


def wait_for_steps(cluster: SlurmCluster, events_of, run: RunDirectory, attempt: int = 1) -> None:
    def has_steps() -> bool:
        assert not is_over(cluster), "".join(path.read_text() for path in run.jobs.glob("*.log"))
        return any(event.attempt == attempt for event in events_of(run.name, StepLogged))

    wait_until(has_steps, f"steps of attempt {attempt} of {run.name}")


def wait_for_end(cluster: SlurmCluster, events_of, run: RunDirectory) -> None:
    """Wait by the journal: Slurm 24.11 shows a job as PREEMPTED that was preempted and has completed since."""

    def has_finished() -> bool:
        has_ended = is_over(cluster)
        is_finished = AttemptEnded.FINISHED in [event.outcome for event in events_of(run.name, AttemptEnded)]
        assert is_finished or not has_ended, "".join(path.read_text() for path in run.jobs.glob("*.log"))
        return is_finished

    wait_until(has_finished, f"the end of {run.name}")


def preempt(cluster: SlurmCluster) -> None:
    cluster.submit("#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive")


@pytest.mark.soak
def test_preempted_run_in_a_real_container_ends_with_the_same_weights(
    in_slurm, container, write_spec, hpc_yolo, events_of, tmp_path, monkeypatch
):
    hyp = tmp_path / "outside" / "hyp.yaml"
    hyp.parent.mkdir()
    hyp.write_text("lr0: 0.02\n")
    train = TRAIN | {"hyp": str(hyp)}
    boxed = container | runtime_here(monkeypatch) | {"env": {"MARK": "$SLURM_JOB_ID"}}
    then = [{"val": {}}, {"export": {}, "in": "job_of_its_own"}, {"shell": "scontrol show job $SLURM_JOB_ID"}]
    boxed_cluster = CLUSTER | {"container": boxed}
    spec = write_spec("boxed", cluster=boxed_cluster, train=train, checkpoint=CHECKPOINT, then=then, model=SLOW_MODEL)
    plain = write_spec(
        "plain", cluster=CLUSTER | {"executor": "local"}, train=train, checkpoint=CHECKPOINT, model=SLOW_MODEL
    )
    hpc_yolo("submit", spec)
    run = RunDirectory(tmp_path / "runs" / "boxed")
    wait_for_steps(in_slurm, events_of, run)
    preempt(in_slurm)
    hpc_yolo("submit", plain, "--wait")  # while the job waits for its second start
    wait_for_end(in_slurm, events_of, run)
    _, second = events_of("boxed", AttemptStarted)
    ends = [event for event in events_of("boxed", AttemptEnded) if event.attempt == 1]
    assert (ends[-1].cause, ends[-1].requeued, ends[-1].step) == (Cause.PREEMPTED, True, second.step)
    assert 0 < second.step < 20
    assert ends[-1].detail.endswith("queued again by the batch script")
    assert digest(run) == digest(RunDirectory(tmp_path / "runs" / "plain"))
    wait_until(functools.partial(is_over, in_slurm), "all jobs to end")
    logs = "".join(path.read_text() for path in run.stages.glob("*.log"))
    assert [(record.stage, record.state) for record in read_stages(run)] == [
        ("export", "done"),
        ("shell", "done"),
        ("val", "done"),
    ], logs
    assert run.best.with_suffix(".torchscript").is_file(), "written in the container"


def test_chain_of_containers_survives_preemption_without_grace(
    in_slurm, container, write_spec, hpc_yolo, events_of, tmp_path, monkeypatch
):
    """Tasks cannot queue the next job, and the last command of the script is killed with the job."""
    boxed = container | use_stand_in(monkeypatch) | {"env": {"OUTPUT": "$HOME/x"}}
    spec = write_spec(
        "chained",
        cluster=CLUSTER | {"tasks_per_node": 1, "container": boxed, "requeue": "chain"},
        train=TRAIN | {"epochs": 4000},
        checkpoint=CHECKPOINT,
    )
    hpc_yolo("submit", spec)
    run = RunDirectory(tmp_path / "runs" / "chained")
    wait_for_steps(in_slurm, events_of, run)
    first, successor = all_submissions(run)
    assert (successor.after, successor.num_nodes, successor.tasks_per_node) == (first.job_id, 1, 1)
    assert not events_of("chained", WarningRaised)
    try:
        in_slurm.run("scontrol", "update", "PartitionName=preempt", "GraceTime=0", "PreemptMode=CANCEL")
        preempt(in_slurm)
        wait_for_steps(in_slurm, events_of, run, attempt=2)
    finally:
        in_slurm.run("scontrol", "update", "PartitionName=preempt", "GraceTime=20", "PreemptMode=REQUEUE")
    starts = events_of("chained", AttemptStarted)
    assert [start.job_id for start in starts] == [first.job_id, successor.job_id]
    ended = events_of("chained", AttemptEnded)[-1]
    assert (ended.attempt, ended.cause, ended.requeued) == (1, Cause.PREEMPTED, True)
    hpc_yolo("cancel", "--yes", run.path)
    wait_until(functools.partial(is_over, in_slurm), "all jobs to end")


def is_over(cluster: SlurmCluster) -> bool:
    return not cluster.run("squeue", "--noheader", "--format=%A").split()
