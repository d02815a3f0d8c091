"""Runs as values: read once, joined with Slurm's reply, and never older than the journal."""

import time
from dataclasses import replace

import msgspec
import pytest
from status_runs import END, EVALUATED, LEFT, START, STEP, append_events, make_run

from hpc_yolo.cluster.job_cache import CachedJobState, Reply
from hpc_yolo.cluster.slurm_output import SLURM_TIME, JobState
from hpc_yolo.monitor.snapshot import Collector
from hpc_yolo.runs.directory import find_runs
from hpc_yolo.runs.journal import JournalReader
from hpc_yolo.runs.sweep import SweepDirectory


class FixedCache:
    """A reply of Slurm as a test sets it."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.reply = reply or Reply()
        self.wanted: list[str] = []

    def latest(self) -> Reply:
        return self.reply

    def query(self, job_ids) -> Reply:
        self.wanted = list(job_ids)
        return self.reply


def reply_of(state: str, at: float, reason: str = "") -> Reply:
    return Reply(jobs={"7": CachedJobState(job=JobState("7", state, reason), time=at)}, time=at)


def collector_of(root, reply: Reply | None = None) -> Collector:
    return Collector(lambda: find_runs(root), FixedCache(reply), clock=lambda: 100.0)


def test_refresh_reads_only_new_bytes(tmp_path):
    """What is already read is spoilt on disk: a collector that looked at it again would lose its figures."""
    run = make_run(tmp_path, "first")
    append_events(run, START, STEP, EVALUATED)
    collector = collector_of(tmp_path)
    assert collector.refresh().runs[0].metrics.map50 == 0.6
    run.journal.write_bytes(b"x" * run.journal.stat().st_size + b"\n")
    append_events(run, STEP | {"step": 50, "losses": {"box": 1.0, "obj": 0.2, "cls": 0.3}, "time": 50.0})
    facts = collector.refresh().runs[0]
    assert (facts.step, facts.loss, facts.metrics.map50, facts.attempts) == (50, 1.5, 0.6, 1)


def test_torn_last_line_is_read_when_it_is_complete(tmp_path):
    run = make_run(tmp_path, "first")
    append_events(run, START, STEP)
    whole = run.journal.read_bytes()
    run.journal.write_bytes(whole[:-10])
    collector = collector_of(tmp_path)
    assert collector.refresh().runs[0].step == 0
    with run.journal.open("ab") as file:
        file.write(whole[-10:])
    assert collector.refresh().runs[0].step == 10


def test_replaced_journal_is_read_from_its_beginning(tmp_path):
    run = make_run(tmp_path, "first")
    append_events(run, START, STEP, EVALUATED)
    collector = collector_of(tmp_path)
    collector.refresh()
    run.journal.write_text("{}\n")  # the same file, shorter
    assert collector.refresh().runs[0].attempts == 0
    append_events(run, START, STEP)
    assert collector.refresh().runs[0].step == 10
    run.journal.unlink()
    assert collector.refresh().runs[0].attempts == 0
    append_events(run, START)
    facts = collector.refresh().runs[0]
    assert (facts.attempts, facts.metrics, facts.step) == (1, None, 0)


def test_run_without_events_is_unstarted_or_unreadable(tmp_path):
    make_run(tmp_path, "prepared", executor=None)
    make_run(tmp_path, "rubbish", executor=None).journal.write_bytes(bytes(range(256)) * 50)
    assert [facts.state for facts in collector_of(tmp_path).refresh().runs] == ["unstarted", "unreadable"]


def test_moved_run_is_gone_until_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_yolo.monitor.snapshot.FIND_INTERVAL_S", 0.0)
    run = make_run(tmp_path, "first")
    append_events(run, START)
    collector = collector_of(tmp_path)
    assert [facts.state for facts in collector.refresh().runs] == ["running"]
    run.path.rename(tmp_path / "elsewhere")
    assert sorted((facts.name, facts.state) for facts in collector.refresh().runs) == [
        ("elsewhere", "running"),
        ("first", "gone"),
    ]
    (tmp_path / "elsewhere").rename(run.path)
    states = {facts.name: facts.state for facts in collector.refresh().runs}
    assert states == {"elsewhere": "gone", "first": "running"}


def test_unreadable_run_does_not_hide_others(tmp_path):
    make_run(tmp_path, "a-bad").journal.mkdir()
    append_events(make_run(tmp_path, "b-good"), START, STEP)
    bad, good = collector_of(tmp_path).refresh().runs
    assert (bad.state, good.state) == ("unreadable", "running")
    assert "directory" in bad.detail


def test_run_of_an_older_format_is_shown_as_unreadable(tmp_path):
    run = make_run(tmp_path, "old")
    append_events(run, START | {"format_version": 1}, STEP)
    collector = collector_of(tmp_path)
    for _ in range(3):  # as long as it is shown, and while the older version writes to it
        (old,) = collector.refresh().runs
        assert old.state == "unreadable"
        assert "written by an older version of hpc-yolo (journal format 1" in old.detail
        append_events(run, STEP)
    run.journal.unlink()
    append_events(run, START)
    assert [run.state for run in collector.refresh().runs] == ["running"]


@pytest.mark.parametrize(
    ("events", "reply", "state", "detail"),
    [
        ([], None, "queued", "Slurm has not reported it yet"),
        ([], reply_of("PENDING", 15, "Priority"), "queued", "Priority: jobs with a higher priority are first"),
        ([], reply_of("RUNNING", 15), "running", ""),
        ([], reply_of("FAILED", 15), "failed", "Slurm reports FAILED"),
        ([], reply_of("CANCELLED", 15), "cancelled", "before it started"),
        ([START, STEP], reply_of("CANCELLED", 30), "cancelled", "Slurm reports CANCELLED"),
        ([START, END], reply_of("CANCELLED", 30), "cancelled", "SIGTERM; Slurm reports CANCELLED"),
        ([START, END | {"requeued": False, "cause": "cancelled"}], None, "cancelled", "SIGTERM"),
        ([START], None, "running", ""),
        ([START, LEFT], None, "saving", "SIGTERM (preempted or cancelled)"),
        ([START, LEFT | {"signal": 0}], reply_of("RUNNING", 30), "saving", "after its last step"),
        ([START, STEP], reply_of("SUSPENDED", 30), "suspended", "Slurm reports SUSPENDED"),
        ([START, STEP], reply_of("SUSPENDED", 20.5), "running", ""),
        ([START, LEFT | {"signal": 99}], None, "saving", "signal 99"),
        ([START, LEFT, START | {"attempt": 2}], None, "running", ""),
        (
            [START, END],
            reply_of("PENDING", 30, "BeginTime"),
            "requeued",
            "BeginTime: its earliest start is not reached: after a requeue Slurm waits before it starts a job again",
        ),
        ([START, END], None, "requeued", "SIGTERM"),
        ([START, END | {"requeued": False}], None, "stopped", "SIGTERM"),
        ([START, END | {"outcome": "finished"}], reply_of("COMPLETED", 30), "done", ""),
        ([START, END | {"outcome": "failed", "detail": "why"}], reply_of("FAILED", 30), "failed", "why"),
        ([START, STEP], reply_of("UNKNOWN", 30), "lost", "Slurm does not have its job any more"),
        ([START, STEP], reply_of("NODE_FAIL", 30), "failed", "Slurm reports NODE_FAIL"),
        # What Slurm said before the journal went on counts no more.
        ([START, STEP], reply_of("PENDING", 15, "Priority"), "running", ""),
        ([START, END, START | {"attempt": 2}], reply_of("REQUEUED", 21.5), "running", ""),
    ],
)
def test_state_follows_the_newer_of_slurm_and_journal(tmp_path, events, reply, state, detail):
    append_events(make_run(tmp_path, "first"), *events)
    facts = collector_of(tmp_path, reply).refresh().runs[0]
    assert (facts.state, facts.detail) == (state, detail)


def test_resumed_attempt_is_at_its_checkpoint_whatever_the_clock_of_its_node(tmp_path):
    run = make_run(tmp_path, "first")
    append_events(run, START, STEP | {"step": 90}, END, START | {"attempt": 2, "step": 80, "time": 1.0})
    assert collector_of(tmp_path).refresh().runs[0].step == 80


def test_slurm_is_not_queried_for_runs_that_are_over(tmp_path):
    append_events(make_run(tmp_path, "done", job_id="1"), START, END | {"outcome": "finished", "requeued": False})
    append_events(make_run(tmp_path, "again", job_id="2", time=99.0), START, END | {"requeued": False})
    append_events(make_run(tmp_path, "runs", job_id="3"), START)
    make_run(tmp_path, "local", job_id="4", executor="local")
    answers = FixedCache()
    snapshot = Collector(lambda: find_runs(tmp_path), answers).refresh()
    assert sorted(answers.wanted) == ["2", "3"]
    assert len(snapshot.runs) == 4


def test_sweep_whose_list_is_damaged_hides_no_run(tmp_path):
    sweep = SweepDirectory(tmp_path / "lr")
    sweep.path.mkdir()
    (sweep.path / "sweep.json").write_text('{"trials": [{"na')
    append_events(make_run(sweep.path, "1-0000"), START)
    append_events(make_run(tmp_path, "alone"), START)
    snapshot = Collector(lambda: find_runs(tmp_path), FixedCache(), find_sweeps=lambda: [sweep]).refresh()
    assert {run.name for run in snapshot.runs} == {"alone", "1-0000"}
    assert snapshot.sweeps == {str(sweep.path): 1}


def test_budget_reads_newest_journals_first(tmp_path):
    for name in "abc":
        append_events(make_run(tmp_path, name), START)
    collector = collector_of(tmp_path)
    first = collector.refresh(budget_s=0.0)
    assert (first.runs, first.num_unread) == ([], 3)
    assert len(collector.refresh().runs) == 3


def test_run_that_was_over_is_read_again(tmp_path, monkeypatch):
    run = make_run(tmp_path, "first")
    append_events(run, START, END | {"requeued": False})
    collector = collector_of(tmp_path)
    assert collector.refresh().runs[0].state == "stopped"
    append_events(run, START | {"attempt": 2}, STEP | {"attempt": 2, "step": 33})
    monkeypatch.setattr("hpc_yolo.monitor.snapshot.FIND_INTERVAL_S", 0.0)
    facts = collector.refresh().runs[0]
    assert (facts.state, facts.step, facts.attempts) == ("running", 33, 2)


def test_reader_samples_steps_and_keeps_the_last(tmp_path):
    run = make_run(tmp_path, "first")
    append_events(run, START, *(STEP | {"step": step} for step in range(1000)), EVALUATED, STEP | {"step": 1001}, END)
    kinds = [type(event).__name__ for event in JournalReader(run.journal).new_events(max_steps=50)]
    assert 45 <= kinds.count("StepLogged") <= 52
    assert kinds[-3:] == ["Evaluated", "StepLogged", "AttemptEnded"]
    assert len(JournalReader(run.journal).new_events()) == 1004


@pytest.mark.parametrize(
    ("minutes", "jobs_needed", "outlook"),
    [
        (30, 0, "done in 2 min 10 s (the job has 30 min left)"),
        (1, 2, "done in 2 min 10 s; needs 2 more jobs (the job has 1 min left)"),
        (2, 1, "done in 2 min 10 s; needs 1 more job (the job has 2 min left)"),
    ],
)
def test_outlook_compares_time_limit_with_time_needed(tmp_path, minutes, jobs_needed, outlook):
    """390 steps of 16 images at 48 a second; the job began when it started to train."""
    append_events(make_run(tmp_path, "first"), START, STEP | {"images_per_s": 48.0})
    reply = reply_of("RUNNING", 25.0)
    job = replace(reply.jobs["7"].job, start=time.strftime(SLURM_TIME, time.localtime(25.0)), time_left_s=60 * minutes)
    reply.jobs["7"] = msgspec.structs.replace(reply.jobs["7"], job=job)
    collector = Collector(lambda: find_runs(tmp_path), FixedCache(reply), clock=lambda: 25.0)
    facts = collector.refresh().runs[0]
    assert (facts.jobs_needed, facts.outlook) == (jobs_needed, outlook)


def test_causes_of_ended_attempts_are_counted(tmp_path):
    preempted = END | {"cause": "preempted"}
    others = [event | {"attempt": n} for n in (2, 3) for event in (START, preempted if n == 2 else END)]
    append_events(make_run(tmp_path, "first"), START, preempted, *others)
    facts = collector_of(tmp_path, None).refresh().runs[0]
    assert facts.causes == {"preempted": 2, "stopped": 1}
