"""The first command of the batch script of a job in a container."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from journal_events import started

from hpc_yolo.cli.before_job import before_job as before_job_command
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_output import JobAttempt, JobState
from hpc_yolo.core.errors import CancelledError, ClusterError, InstallationError, SpecError, TrainingError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.resilience import before_job
from hpc_yolo.resilience.after_job import read_facts
from hpc_yolo.resilience.attempt_end import FollowUp, attempt_end
from hpc_yolo.resilience.before_job import prepare_job
from hpc_yolo.resilience.lease import take_lease
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.submissions import Submission, add_submission
from hpc_yolo.spec.container import ContainerSpec, Mount
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec

JOB = ProcessInfo.alone({"SLURM_JOB_ID": "7"})
SECOND_START = dataclasses.replace(JOB, attempt=2)


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> ClusterSpec:
    """A job in a container whose image is there, on a machine with apptainer and without Slurm."""
    for name, body in {"bin/apptainer": "#!/bin/sh\n", "a.sif": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return ClusterSpec(container=ContainerSpec(image=str(tmp_path / "a.sif"), runtime="apptainer"), requeue="requeue")


def with_container(cluster: ClusterSpec, **fields) -> ClusterSpec:
    assert cluster.container is not None
    container = msgspec.structs.replace(cluster.container, **fields)
    return msgspec.structs.replace(cluster, container=container)


def begin(run, job_id: str = "7", restart: int = 1) -> None:
    """Begin an attempt of a job that records no end."""
    process = ProcessInfo.alone({"SLURM_JOB_ID": job_id, "SLURM_RESTART_COUNT": str(restart - 1)})
    lease = take_lease(run, process, watch_s=0)
    JournalWriter(run.journal, lease.attempt).write(started(time=1.0, attempt=lease.attempt, job_id=job_id))
    lease.release()


def accounting(monkeypatch, state: str) -> None:
    starts = [JobAttempt(state=state, began=None)]
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.earlier_attempts", lambda _job_id: starts)


def ends(run) -> list[AttemptEnded]:
    return [event for event in read_events(run.journal) if isinstance(event, AttemptEnded)]


def test_good_container_needs_nothing(run, cluster, capsys):
    assert prepare_job(run, cluster, JOB) == 0
    assert prepare_job(run, cluster, dataclasses.replace(JOB, job_id=None)) == 0
    assert (read_events(run.journal), capsys.readouterr().out) == ([], "")


def test_command_reads_the_run_and_ends_with_its_exit_code(tmp_path, shapes, cluster, monkeypatch):
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path=str(shapes)), output=str(tmp_path), cluster=cluster)
    prepared = RunDirectory(tmp_path / "run")
    prepare_run(prepared, spec)
    assert CliRunner().invoke(before_job_command, [str(prepared.path)]).exit_code == 0
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert cluster.container is not None
    Path(cluster.container.image).unlink()
    done = CliRunner().invoke(before_job_command, [str(prepared.path)])
    assert (done.exit_code, "does not exist on" in done.output) == (SpecError.exit_code, True)


@pytest.mark.parametrize(
    ("fields", "mounts", "code", "message"),
    [
        ({"image": "/nowhere/a.sif"}, [], SpecError.exit_code, "/nowhere/a.sif does not exist on"),
        ({"runtime": "singularity"}, [], InstallationError.exit_code, "singularity is not installed on"),
        ({}, [Mount("$NOPE", "/x")], SpecError.exit_code, "the variable NOPE is not set"),
    ],
)
def test_bad_container_ends_the_attempt_with_one_sentence(run, cluster, capsys, fields, mounts, code, message):
    cluster = with_container(cluster, **fields)
    assert prepare_job(run, cluster, JOB, mounts) == code
    assert message in capsys.readouterr().out
    (ended,) = ends(run)
    assert (ended.outcome, ended.cause, ended.requeued, ended.attempt) == (AttemptEnded.FAILED, Cause.ERROR, False, 1)
    assert message in ended.detail
    after = attempt_end(read_facts(run, cluster, JOB, ExitStatus(code)))
    assert (after.cause, after.follow_up) == (Cause.ERROR, FollowUp.NOTHING), "the last command adds nothing"


@pytest.mark.parametrize(
    ("state", "cause"),
    [("PREEMPTED", Cause.PREEMPTED), ("REQUEUED", Cause.PREEMPTED), ("NODE_FAIL", Cause.NODE_FAILURE)],
)
def test_lost_attempt_gets_the_cause_of_accounting(run, cluster, monkeypatch, state, cause):
    """Tasks have no sacct: each preemption without grace counted as a crash, and the fourth ended the run."""
    accounting(monkeypatch, state)
    begin(run)
    assert prepare_job(run, cluster, SECOND_START) == 0
    (ended,) = ends(run)
    assert (ended.attempt, ended.cause, ended.requeued) == (1, cause, True)
    assert prepare_job(run, cluster, SECOND_START) == 0
    assert len(ends(run)) == 1


def test_lost_attempt_over_the_limit_ends_the_run(run, cluster, monkeypatch, capsys):
    accounting(monkeypatch, "NODE_FAIL")
    limited = ClusterSpec(container=cluster.container, max_node_failures=0)
    begin(run)
    assert prepare_job(run, limited, SECOND_START) == TrainingError.exit_code
    assert "this run is not resumed: node failure once, and cluster.max_node_failures is 0" in capsys.readouterr().out
    assert [(end.attempt, end.cause) for end in ends(run)] == [(1, Cause.NODE_FAILURE), (2, Cause.ERROR)]


@pytest.mark.parametrize(("state", "num_ends"), [("RUNNING", 0), ("NODE_FAIL", 1)])
def test_attempt_of_another_job_is_lost_when_that_job_is_over(run, cluster, monkeypatch, state, num_ends):
    accounting(monkeypatch, "NODE_FAIL")
    monkeypatch.setattr("hpc_yolo.cluster.jobs.slurm_job_state", lambda job_id: JobState(job_id, state))
    begin(run, "6")
    assert prepare_job(run, cluster, JOB) == 0
    assert len(ends(run)) == num_ends


def test_attempt_of_a_job_of_unknown_state_is_left_alone(run, cluster):
    """Slurm does not answer here, so that nothing is known about job 6."""
    begin(run, "6")
    assert prepare_job(run, cluster, JOB) == 0
    assert ends(run) == []


def test_finished_run_queues_nothing(run, cluster, monkeypatch):
    begin(run)
    finished = AttemptEnded(time=2.0, attempt=1, outcome=AttemptEnded.FINISHED, epoch=2, step=10, cause=Cause.FINISHED)
    JournalWriter(run.journal, 1).write(finished)
    assert prepare_job(run, with_container(cluster, image="/nowhere"), SECOND_START) == 0


@pytest.fixture
def queued(monkeypatch) -> list[str]:
    jobs: list[str] = []
    monkeypatch.setattr(before_job, "ensure_successor", lambda _run, process: jobs.append(process.job_id))
    return jobs


@pytest.mark.parametrize(("mode", "expected"), [("chain", ["7"]), ("requeue", []), ("auto", []), ("off", [])])
def test_successor_is_queued_in_chain_mode(run, cluster, queued, mode, expected):
    """A job that is killed could not queue it at its end, and its tasks have no sbatch."""
    assert prepare_job(run, ClusterSpec(container=cluster.container, requeue=mode), JOB) == 0
    assert queued == expected


def test_successor_that_slurm_refuses_is_no_reason_not_to_train(run, cluster, monkeypatch, capsys):
    def refuse(_run, _process):
        raise ClusterError("sbatch: too many jobs")

    monkeypatch.setattr(before_job, "ensure_successor", refuse)
    assert prepare_job(run, ClusterSpec(container=cluster.container, requeue="chain"), JOB) == 0
    assert "the next job cannot be queued: sbatch: too many jobs; this is retried" in capsys.readouterr().out


def test_successor_of_a_cancelled_job_ends(run, cluster, queued, monkeypatch):
    submission = Submission(
        time=1.0, executor="slurm", job_id="7", host="h", num_nodes=1, tasks_per_node=1, gpus_per_node=0, after="6"
    )
    add_submission(run, submission)
    monkeypatch.setattr("hpc_yolo.resilience.chain.slurm_job_state", lambda job_id: JobState(job_id, "CANCELLED"))
    code = prepare_job(run, ClusterSpec(container=cluster.container, requeue="chain"), JOB)
    assert (code, queued) == (CancelledError.exit_code, [])
    (ended,) = ends(run)
    assert (ended.cause, ended.requeued) == (Cause.CANCELLED, False)
