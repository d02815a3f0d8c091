"""At most one job that evaluates is in the queue; the tasks evaluate themselves where jobs are of no use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.launch import evaluation_queue
from hpc_yolo.launch.evaluation_queue import (
    EvaluationQueue,
    cancel_evaluation,
    queue_evaluations,
)
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec

SPEC = Spec(
    name="run",
    model="yolov5n",
    data=DataSpec(path="d.yaml"),
    cluster=ClusterSpec(gpus_per_node=0, python="/env/python"),
)


class Slurm:
    """Slurm's commands: jobs get the numbers 1, 2 …; `states` by job, `error` is raised instead of a reply."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[str, str] = {}
        self.error: Exception | None = None
        self.cancelled: list[str] = []
        monkeypatch.setattr(scheduler, "submit_script", self.submit)
        monkeypatch.setattr(scheduler, "job_states", self.job_states)
        monkeypatch.setattr(scheduler, "cancel", self.cancelled.extend)

    def submit(self, _path: Path, **_more: Any) -> str:
        if self.error is not None:
            raise self.error
        job_id = str(len(self.states) + 1)
        self.states[job_id] = "PENDING"
        return job_id

    def job_states(self, jobs: list[str]) -> dict[str, JobState]:
        if self.error is not None:
            raise self.error
        return {job: JobState(job, self.states[job]) for job in jobs if job in self.states}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create()
    run.evaluations.mkdir()
    return run


def queue_of(run: RunDirectory) -> EvaluationQueue:
    """Return a queue whose clock passes a minute with each question."""
    times = iter(range(0, 10**6, 60))
    return EvaluationQueue(run, SPEC, "7", clock=lambda: float(next(times)))


def add_model(run: RunDirectory, epoch: int) -> None:
    run.waiting_model(epoch).touch()


def add_result(run: RunDirectory, epoch: int) -> None:
    metrics = Metrics(**dict.fromkeys(Metrics.__struct_fields__, 0.0))
    event = Evaluated(
        epoch=epoch, step=0, num_images=1, metrics=metrics, images_per_s=1.0, seconds=1.0, is_best=False, classes=[]
    )
    JournalWriter(run.evaluation_results, 0).write(event)


def test_job_is_queued_when_a_model_waits_and_none_is_alive(run: RunDirectory, slurm: Slurm) -> None:
    queue = queue_of(run)
    queue.look()
    assert slurm.states == {}, "no model waits"
    add_model(run, 0)
    queue.look()
    assert list(slurm.states) == ["1"]
    for state in ("PENDING", "RUNNING", "COMPLETING"):
        slurm.states["1"] = state
        add_model(run, len(state))
        queue.look()
        queue_of(run).look()  # that of a requeued job
        assert list(slurm.states) == ["1"], f"one is {state}"
    slurm.states["1"] = "COMPLETED"
    add_result(run, 0)
    queue.look()
    assert list(slurm.states) == ["1", "2"], "models came after its last look"
    cancel_evaluation(run)
    assert slurm.cancelled == ["2"] and not run.evaluation_job.exists()
    cancel_evaluation(run)
    assert slurm.cancelled == ["2"]


def no_answer(_path: Path, **_more: Any) -> str:
    raise SchedulerUnavailable("no answer")


def test_jobs_without_results_are_given_up(run: RunDirectory, slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    queue = queue_of(run)
    add_model(run, 0)
    for job in ("1", "2"):
        queue.look()
        assert queue.is_of_use and job in slurm.states
        slurm.states[job] = "FAILED"
        if job == "1":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(scheduler, "submit_script", no_answer)
                queue.look()  # counts the job, and again below it does not
    queue.look()
    assert not queue.is_of_use and len(slurm.states) == 2
    assert f"2 jobs have ended without a result, see {run.evaluations}; the tasks evaluate" in capsys.readouterr().out
    after = queue_of(run)
    after.look()
    assert after.is_of_use and len(slurm.states) == 3, "the next attempt tries again"


def test_useful_job_clears_the_count_of_useless_ones(run: RunDirectory, slurm: Slurm) -> None:
    queue = queue_of(run)
    for epoch, state in enumerate(("FAILED", "COMPLETED", "FAILED", "COMPLETED")):
        add_model(run, epoch)
        queue.look()
        slurm.states[str(len(slurm.states))] = state
        if state == "COMPLETED":
            add_result(run, epoch)
    assert queue.is_of_use and len(slurm.states) == 4


@pytest.mark.parametrize(
    ("error", "is_of_use"), [(ClusterError("QOSMaxSubmitJob"), False), (SchedulerUnavailable("no answer"), True)]
)
def test_refused_job_ends_the_queue_and_a_silent_slurm_does_not(
    run: RunDirectory, slurm: Slurm, capsys: pytest.CaptureFixture[str], error: Exception, is_of_use: bool
) -> None:
    queue = queue_of(run)
    add_model(run, 0)
    slurm.error = error
    queue.look()
    assert queue.is_of_use == is_of_use
    assert ("Slurm refuses the job: QOSMaxSubmitJob; the tasks evaluate" in capsys.readouterr().out) != is_of_use
    if is_of_use:
        slurm.error = None
        queue.look()
        assert list(slurm.states) == ["1"]


def test_file_marks_that_jobs_are_queued(run: RunDirectory, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_queue, "POLL_S", 0.0)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(RunError, match="runs beside the tasks of a Slurm job"):
        queue_evaluations(run, SPEC, is_needed=lambda: True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    marks = []

    def is_needed() -> bool:
        marks.append(run.evaluation_queue("7").exists())
        return len(marks) < 3

    queue_evaluations(run, SPEC, is_needed=is_needed)
    assert marks == [True] * 3 and not run.evaluation_queue("7").exists()
