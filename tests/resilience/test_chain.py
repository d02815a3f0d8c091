"""What the job that follows a job in chain mode takes over from it."""

import msgspec
import pytest

from hpc_yolo.cluster.batch_job import BatchJob
from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import SchedulerUnavailable
from hpc_yolo.resilience import chain
from hpc_yolo.resilience.chain import ARGUMENTS_VARIABLE, script_arguments, successor_options
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission, all_submissions

OWN = ["--chdir=/home/me", "--dependency=afternotok:7", "--kill-on-invalid-dep=yes"]


@pytest.mark.parametrize(
    ("options", "settings", "script", "expected"),
    [
        ((), {}, "", []),
        (("--parsable", "-p", "high", "--comment=a b"), {"partition": "high"}, "", ["-p", "high", "--comment=a b"]),
        (("--hold", "--wait", "-d", "after:5", "--begin=now+1hour"), {}, "", []),
        (("--exclude=n1", "--time=5"), {"exclude": "n1,n2", "time": "00:05:00"}, "", ["--time=5", "--exclude=n1,n2"]),
        # Set by a variable of the shell, or on a command line that nobody kept.
        ((), {"account": "vision", "qos": "long"}, "", ["--account=vision", "--qos=long"]),
        ((), {"partition": "b"}, "#SBATCH --partition=a,b\n", []),
        ((), {"partition": "c"}, "#SBATCH --partition=a,b\n", ["--partition=c"]),
        (("--array=1-9", "-J", "name"), {}, "", ["-J", "name"]),
    ],
)
def test_successor_gets_the_options_of_its_predecessor(options, settings, script, expected):
    job = BatchJob(script, (), "/home/me", options, settings)
    assert successor_options(job, "7", []) == [*expected, *OWN]


def test_successor_avoids_failed_nodes_and_keeps_its_array_index():
    job = BatchJob("", (), "/home/me", (), {"exclude": "n1"})
    found = successor_options(job, "7_3", ["n8"])
    assert found == ["--exclude=n1,n8", "--array=3", OWN[0], "--dependency=afternotok:7_3", OWN[2]]


def test_script_arguments_keep_their_spaces(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    job = BatchJob("#!/bin/bash\n", ("spec.yaml", "a", "b"), "/home/me")
    assert script_arguments(job, run) == ["spec.yaml", "a", "b"], "as far as Slurm knows them"
    monkeypatch.setenv(ARGUMENTS_VARIABLE, "'spec.yaml' 'a b' 'it'\\''s'")
    assert script_arguments(job, run) == ["spec.yaml", "a b", "it's"]
    monkeypatch.setenv(ARGUMENTS_VARIABLE, "")
    assert script_arguments(job, run) == []
    monkeypatch.delenv(ARGUMENTS_VARIABLE)
    run.script.write_text(job.script)
    assert script_arguments(job, run) == [], "the script of submit has none; a space in its path is no argument"


@pytest.fixture
def queued(monkeypatch) -> list[tuple[str, list[str], list[str]]]:
    """(script, options, arguments) of each successor that is queued as job 8."""
    calls = []

    def queue_script(run, script, planned, *, options, arguments, sbatch):
        calls.append((script.read_text(), options, arguments))
        submission = msgspec.structs.replace(planned, job_id=f"8{planned.job_id}")
        add_submission(run, submission)
        return submission

    job = BatchJob("#!/bin/sh\n", ("spec.yaml",), "/home/me", ("--time=5",), {})
    monkeypatch.setattr(chain, "queue_script", queue_script)
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.batch_job", lambda _job_id: job)
    return calls


def task(job_id: str) -> ProcessInfo:
    return ProcessInfo(0, 0, 0, 2, 2, 1, LOOPBACK, None, "slurm", host="gpu01", job_id=job_id)


@pytest.mark.parametrize(("job_id", "successor"), [("7", "8"), ("7_3", "8_3")])
def test_successor_is_queued_once_and_keeps_what_submit_recorded(run, queued, monkeypatch, job_id, successor):
    own = Submission(
        time=1.0,
        executor="slurm",
        job_id=job_id,
        host="login",
        num_nodes=1,
        tasks_per_node=2,
        gpus_per_node=2,
        variables={"SBATCH_EXPORT": "NONE"},
        requeue="chain",
    )
    add_submission(run, own)
    assert chain.ensure_successor(run, task(job_id)) == successor
    excluded = []
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.exclude_nodes", lambda *request: excluded.append(request))
    assert chain.ensure_successor(run, task(job_id)) == successor
    assert excluded == []
    assert chain.ensure_successor(run, task(job_id), ["n8"]) == successor
    assert excluded == [(successor, ["n8"])]
    ((script, options, arguments),) = queued
    assert (script, arguments) == ("#!/bin/sh\n", ["spec.yaml"])
    assert f"--dependency=afternotok:{job_id}" in options
    recorded = all_submissions(run)[-1]
    assert (recorded.after, recorded.gpus_per_node, recorded.requeue) == (job_id, 2, "chain")
    assert recorded.variables == {"SBATCH_EXPORT": "NONE"}
    assert chain.predecessor(run, successor) == job_id


def test_successor_of_a_job_that_was_not_submitted_here_is_queued_all_the_same(run, queued):
    assert chain.ensure_successor(run, task("7"), ["n8"]) == "8"
    assert "--exclude=n8" in queued[0][1]
    assert all_submissions(run)[-1].gpus_per_node == 0


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (JobState("7", "CANCELLED"), "7"),
        (JobState("7", "RUNNING"), None),
        (None, None),
        (SchedulerUnavailable("no answer"), None),
    ],
    ids=str,
)
def test_cancelled_predecessor_is_one_that_slurm_reports(run, queued, monkeypatch, state, expected):
    def slurm_job_state(_job_id):
        if isinstance(state, Exception):
            raise state
        return state

    monkeypatch.setattr(chain, "slurm_job_state", slurm_job_state)
    chain.ensure_successor(run, task("7"))
    assert chain.cancelled_predecessor(run, "8") == expected
    assert chain.cancelled_predecessor(run, "7") is None, "a user submitted it"
