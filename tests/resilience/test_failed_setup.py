"""A setup that fails before the tasks: reported, ends the attempt, is not requeued."""

import pytest
from journal_events import started

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_output import JobRecord
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.resilience.failed_setup import conclude_failed_setup, describe_failure
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import ClusterSpec

SETUP = ["module load cuda", "source \\", "  ~/venv/bin/activate", "", "exit 0"]
JOB = ProcessInfo.from_env({"SLURM_JOB_ID": "7"})


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (1, 1, "cluster.setup: line 1 failed with exit status 1: module load cuda"),
        (2, 127, "cluster.setup: line 2 failed with exit status 127: source ~/venv/bin/activate"),
        (3, 127, "cluster.setup: line 2 failed with exit status 127: source ~/venv/bin/activate"),
        (5, 0, "cluster.setup: line 5 ended the job before its tasks: exit 0"),
        (None, 2, "cluster.setup ended the job with exit status 2"),
        (0, 2, "cluster.setup ended the job with exit status 2"),
        (99, 2, "cluster.setup ended the job with exit status 2"),
    ],
)
def test_failed_setup_is_described_by_number_text_and_status(number, status, message):
    assert describe_failure(ClusterSpec(setup=SETUP), number, status) == message


def test_lines_around_the_setup_are_named_after_their_fields():
    cluster = ClusterSpec(modules=["cuda", "gcc"], setup=SETUP, env={"A": "a", "B": "$NOPE"})
    assert describe_failure(cluster, 1, 1) == "cluster.modules failed with exit status 1: module load cuda gcc"
    assert describe_failure(cluster, 2, 1) == "cluster.setup: line 1 failed with exit status 1: module load cuda"
    message = describe_failure(cluster, len(SETUP) + 3, 127)
    assert message.startswith("cluster.env failed with exit status 127: export B=")
    assert describe_failure(cluster, len(SETUP) + 4, 1) == "cluster.setup ended the job with exit status 1"


def conclude(run, content, status):
    record = run.jobs / "7.setup"
    record.write_text(content)
    code = conclude_failed_setup(run, ClusterSpec(setup=SETUP), JOB, record, status)
    assert not record.exists()
    return code


@pytest.mark.parametrize(
    ("content", "status", "code", "message"),
    [
        ("1\n", 3, 3, "line 1 failed with exit status 3: module load cuda"),
        ("5\n", 0, 1, "line 5 ended the job before its tasks: exit 0"),
        ("", 2, 2, "cluster.setup ended the job with exit status 2"),
        ("torn", 2, 2, "cluster.setup ended the job with exit status 2"),
    ],
)
def test_failed_setup_ends_the_attempt_in_the_journal(run, capsys, content, status, code, message):
    assert conclude(run, content, status) == code
    (ended,) = read_events(run.journal)
    assert (ended.outcome, ended.cause, ended.requeued) == (AttemptEnded.FAILED, Cause.ERROR, False)
    assert (ended.attempt, message in ended.detail) == (1, True)
    assert message in capsys.readouterr().out
    assert conclude(run, content, status) == code
    assert [event.attempt for event in read_events(run.journal)] == [1, 2], "each start is an attempt"


@pytest.mark.parametrize(
    ("status", "record", "expected"),
    [
        (143, JobRecord("RUNNING", 0, is_being_preempted=True), (AttemptEnded.STOPPED, Cause.PREEMPTED, True)),
        (137, JobRecord("PENDING", 1, is_being_preempted=False), (AttemptEnded.STOPPED, Cause.PREEMPTED, True)),
        (143, JobRecord("CANCELLED", 0, is_being_preempted=False), (AttemptEnded.STOPPED, Cause.CANCELLED, False)),
        (137, JobRecord("RUNNING", 0, is_being_preempted=False), (AttemptEnded.FAILED, Cause.ERROR, False)),
        (143, None, (AttemptEnded.FAILED, Cause.ERROR, False)),
        (1, JobRecord("CANCELLED", 0, is_being_preempted=False), (AttemptEnded.FAILED, Cause.ERROR, False)),
    ],
)
def test_setup_ended_by_slurm_has_the_cause_of_slurm(run, monkeypatch, status, record, expected):
    requeued: list[str] = []
    monkeypatch.setattr("hpc_yolo.resilience.failed_setup.own_job_record", lambda _process: record)
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.requeue", requeued.append)
    assert conclude(run, "1", status) == status
    (ended,) = read_events(run.journal)
    assert (ended.outcome, ended.cause, ended.requeued) == expected
    is_left_to_us = expected[2] and record is not None and record.restarts == 0
    assert requeued == (["7"] if is_left_to_us else [])


def test_refused_requeue_after_a_setup_is_recorded(run, monkeypatch, capsys):
    def refuse(_job_id):
        raise ClusterError("refused")

    record = JobRecord("RUNNING", 0, is_being_preempted=True)
    monkeypatch.setattr("hpc_yolo.resilience.failed_setup.own_job_record", lambda _process: record)
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.requeue", refuse)
    assert conclude(run, "1", 143) == 143
    ended = read_events(run.journal)[-1]
    assert (ended.cause, ended.requeued) == (Cause.PREEMPTED, False)
    assert "not queued again: refused" in ended.detail and "not queued again: refused" in capsys.readouterr().out


def test_earlier_attempt_without_an_end_is_ended_first(run):
    JournalWriter(run.journal, attempt=1).write(started(job_id=None, launcher="single", step=4))
    conclude(run, "1", 1)
    ends = [event for event in read_events(run.journal) if isinstance(event, AttemptEnded)]
    assert [(event.attempt, event.cause) for event in ends] == [(1, Cause.KILLED), (2, Cause.ERROR)]


def test_failure_is_printed_where_the_journal_is_not_writable(run, capsys):
    run.leases.rmdir()
    run.leases.write_text("in the way")
    assert conclude(run, "1", 4) == 4
    output = capsys.readouterr().out
    assert "line 1 failed with exit status 4" in output and "not in the journal" in output
