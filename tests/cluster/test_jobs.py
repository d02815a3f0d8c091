"""Jobs of a run, made from its submissions: a run must neither be started twice nor waited for in vain."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys

import pytest
from waiting import PATIENCE_S

from hpc_yolo.cluster import jobs, scheduler
from hpc_yolo.cluster.jobs import (
    DebugJob,
    JobWatch,
    LocalJob,
    SlurmJob,
    alive_jobs,
    current_jobs,
    job_has_ended,
    job_states,
    slurm_job_state,
    stop_jobs,
)
from hpc_yolo.cluster.slurm_output import UNKNOWN, JobState
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.launch.actions import cancel_run, requeue_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create()
    return run


class Slurm:
    """Replies of Slurm, and the queries and cancellations."""

    def __init__(self):
        self.states: dict[str, str] = {}
        self.error: ClusterError | None = None
        self.queries: list[list[str]] = []
        self.cancelled: list[list[str]] = []

    def job_states(self, job_ids, timeout_s=0.0):
        self.queries.append(list(job_ids))
        if self.error is not None:
            raise self.error
        return {job_id: JobState(job_id, self.states[job_id]) for job_id in job_ids if job_id in self.states}

    def cancel(self, job_ids):
        self.cancelled.append(list(job_ids))


@pytest.fixture
def slurm(monkeypatch) -> Slurm:
    slurm = Slurm()
    monkeypatch.setattr(scheduler, "job_states", slurm.job_states)
    monkeypatch.setattr(scheduler, "cancel", slurm.cancel)
    return slurm


def submit(run: RunDirectory, job_id: str | int, executor: str = "slurm", **fields: object) -> None:
    size = {"num_nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
    record = {"time": 10.0, "executor": executor, "job_id": str(job_id), "host": platform.node(), **size, **fields}
    add_submission(run, Submission(**record))


def controller(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a process with `arguments` and return it once /proc shows them."""
    program = "import time; print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    return process


@pytest.mark.parametrize(
    ("executor", "kind", "uses_slurm", "name"),
    [
        ("slurm", SlurmJob, True, "Slurm job 7@far"),
        ("local", LocalJob, False, "local job 7"),
        ("debug", DebugJob, False, "debug job 7"),
    ],
)
def test_submission_becomes_the_job_of_its_executor(run, executor, kind, uses_slurm, name):
    submit(run, 7, executor, cluster="far" if executor == "slurm" else None)
    (job,) = current_jobs(run)
    assert (type(job), job.uses_slurm, job.name, job.id) == (kind, uses_slurm, name, "7")


def test_current_jobs_of_a_chain_are_its_last_two(run):
    assert current_jobs(run) == []
    submit(run, 1)
    submit(run, 2)
    submit(run, 3, after="2")
    submit(run, 4, after="3")
    assert [job.id for job in current_jobs(run)] == ["3", "4"]


def test_slurm_is_queried_once_for_all_jobs(run, slurm):
    submit(run, 7)
    submit(run, 8, after="7")
    slurm.states = {"7": "TIMEOUT", "8": "PENDING"}
    assert [state.state for state in job_states(current_jobs(run))] == ["TIMEOUT", "PENDING"]
    assert slurm.queries == [["7", "8"]]
    assert [job.id for job in alive_jobs(current_jobs(run))] == ["8"]


def test_job_that_slurm_leaves_out_is_unknown_and_not_alive(run, slurm):
    submit(run, 7)
    (job,) = current_jobs(run)
    assert job.state().state == UNKNOWN
    assert alive_jobs([job]) == []


def test_jobs_of_a_chain_are_cancelled_by_one_command(run, slurm):
    """A successor starts once the job before it has ended."""
    submit(run, 7)
    submit(run, 8, after="7")
    stop_jobs(current_jobs(run))
    assert slurm.cancelled == [["7", "8"]]


def test_job_of_another_cluster_with_the_same_home_directories_is_not_cancelled(run, slurm, monkeypatch):
    """This cluster has a job of that number too."""
    submit(run, 7, home="one")
    slurm.states["7"] = "RUNNING"
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "Two")
    for action in (cancel_run, requeue_run, lambda run: stop_jobs(current_jobs(run))):
        with pytest.raises(RunError, match="Slurm job 7 is one of the cluster one, and this machine is of two"):
            action(run)
    assert slurm.cancelled == []
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "One")
    cancel_run(run)
    assert slurm.cancelled == [["7"]]


def test_local_job_is_alive_until_its_controller_ends(run):
    process = controller(str(run.jobs))
    submit(run, process.pid, "local")
    (job,) = current_jobs(run)
    assert job.state().is_alive
    job.stop()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not job.state().is_alive, "a zombie"
    assert process.wait(PATIENCE_S) == -signal.SIGTERM
    assert not job.state().is_alive
    with pytest.raises(RunError, match="has ended"):
        job.stop()


def test_local_job_of_a_run_that_is_seen_through_a_link_is_alive(run, tmp_path):
    process = controller(str(run.jobs))
    submit(run, process.pid, "local")
    (tmp_path / "link").symlink_to(run.path)
    try:
        (job,) = current_jobs(RunDirectory(tmp_path / "link"))
        assert job.state().is_alive
    finally:
        process.kill()
        process.wait()


def test_process_id_that_was_reused_is_not_the_job(run):
    submit(run, os.getpid(), "local")
    (job,) = current_jobs(run)
    assert not job.state().is_alive
    with pytest.raises(RunError):
        job.stop()


def test_controller_whose_arguments_are_unknown_counts_as_alive_and_is_not_killed(run, monkeypatch):
    monkeypatch.setattr(jobs, "process_arguments", lambda _pid: None)
    submit(run, os.getpid(), "local")
    (job,) = current_jobs(run)
    assert job.state().is_alive
    with pytest.raises(RunError):
        job.stop()


def test_local_job_of_another_machine_counts_as_alive_and_cannot_be_stopped(run):
    submit(run, 1, "local", host="elsewhere")
    (job,) = current_jobs(run)
    assert job.state().is_alive
    with pytest.raises(RunError, match="run on elsewhere"):
        job.stop()


@pytest.mark.parametrize("executor", ["local", "debug"])
def test_only_slurm_jobs_can_be_requeued(run, executor):
    submit(run, 1, executor)
    with pytest.raises(RunError, match="only Slurm jobs"):
        current_jobs(run)[0].requeue()


def test_debug_job_is_over_and_cannot_be_stopped(run):
    submit(run, "DEBUG_1", "debug")
    (job,) = current_jobs(run)
    assert not job.state().is_alive
    with pytest.raises(RunError, match="debug job"):
        job.stop()


@pytest.mark.parametrize(
    ("states", "error", "expected"),
    [
        ({"7": "CANCELLED"}, None, "CANCELLED"),
        ({"7": UNKNOWN}, None, None),
        ({}, None, None),
        ({}, ClusterError("Invalid job id"), None),
        ({}, SchedulerUnavailable("no answer"), SchedulerUnavailable),
    ],
)
def test_slurm_job_state_is_none_where_slurm_does_not_know_the_job(slurm, states, error, expected):
    slurm.states, slurm.error = states, error
    if expected is SchedulerUnavailable:
        with pytest.raises(SchedulerUnavailable):
            slurm_job_state("7")
    else:
        state = slurm_job_state("7")
        assert (state and state.state) == expected


class TestJobWatch:
    def test_slurm_is_queried_every_five_seconds_and_believed_alive_without_an_answer(self, run, slurm):
        submit(run, 7)
        now = 0.0
        watch = JobWatch(run, clock=lambda: now)
        slurm.error = SchedulerUnavailable("no answer")
        assert watch.is_alive()
        slurm.error, slurm.states = None, {"7": "FAILED"}
        now = 4.9
        assert watch.is_alive()
        now = 5.0
        assert not watch.is_alive()
        assert len(slurm.queries) == 2

    def test_successor_keeps_the_run_alive(self, run, slurm):
        submit(run, 7)
        now = 0.0
        watch = JobWatch(run, clock=lambda: now)
        slurm.states = {"7": "RUNNING"}
        assert watch.is_alive()
        submit(run, 8, after="7")
        slurm.states = {"7": "TIMEOUT", "8": "RUNNING"}
        now = 5.0
        assert watch.is_alive()

    @pytest.mark.parametrize(
        ("state", "error", "expected"),
        [("CANCELLED", None, True), ("FAILED", None, False), ("FAILED", ClusterError("no answer"), False)],
    )
    def test_was_cancelled_as_slurm_reports(self, run, slurm, state, error, expected):
        submit(run, 7)
        slurm.states, slurm.error = {"7": state}, error
        assert JobWatch(run).was_cancelled() is expected

    def test_only_an_owned_local_job_is_stopped(self, run, slurm):
        process = controller(str(run.jobs))
        submit(run, process.pid, "local")
        assert not JobWatch(run).stop()
        assert JobWatch(run, owned=True).stop()
        assert process.wait(PATIENCE_S) == -signal.SIGTERM
        assert JobWatch(run, owned=True).stop(), "it has ended already"
        submit(run, 7)
        assert not JobWatch(run, owned=True).stop()
        assert slurm.cancelled == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (JobState("7", "COMPLETED"), True),
        (JobState("7", "NODE_FAIL"), True),
        (JobState("7", "RUNNING"), False),
        (JobState("7", "PENDING"), False),  # it may start
        (JobState("7", UNKNOWN), False),  # another cluster's, or forgotten: nobody can tell
        (JobState("7", UNKNOWN, is_stale=True), False),
        (None, False),
        (SchedulerUnavailable("no answer"), False),
    ],
)
def test_only_a_job_that_slurm_knows_to_have_ended_is_over(monkeypatch, answer, expected):
    def states(job_ids):
        if isinstance(answer, Exception):
            raise answer
        return {} if answer is None else dict.fromkeys(job_ids, answer)

    monkeypatch.setattr("hpc_yolo.cluster.scheduler.job_states", states)
    assert job_has_ended("7") is expected
