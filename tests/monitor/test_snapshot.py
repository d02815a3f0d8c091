"""Facts of runs: read once, joined with what Slurm said, and never older than the journal."""

import itertools
import time
from dataclasses import replace

import msgspec
import pytest
from status_runs import END, EVALUATED, LEFT, START, STEP, append_events, make_run

from hpc_yolo.cluster.job_cache import CachedJobState, Reply
from hpc_yolo.cluster.slurm_output import SLURM_TIME, JobState
from hpc_yolo.monitor.alerts import problems_of
from hpc_yolo.monitor.run_record import RunRecord
from hpc_yolo.monitor.snapshot import Collector
from hpc_yolo.monitor.trend import Trend, resampled
from hpc_yolo.runs.directory import find_runs
from hpc_yolo.runs.events import AnyEvent
from hpc_yolo.runs.index import add_to_index, gone_runs, indexed_runs, remove_from_index, state_directory
from hpc_yolo.runs.journal import JournalReader


class FixedAnswers:
    """Slurm's answer as a test sets it."""

    def __init__(self, answer: Reply | None = None) -> None:
        self.answer = answer or Reply()
        self.wanted: list[str] = []

    def latest(self) -> Reply:
        return self.answer

    def query(self, job_ids) -> Reply:
        self.wanted = list(job_ids)
        return self.answer


def said(state: str, at: float, reason: str = "") -> Reply:
    return Reply(jobs={"7": CachedJobState(job=JobState("7", state, reason), time=at)}, time=at)


def collector_of(root, answer: Reply | None = None) -> Collector:
    return Collector(lambda: find_runs(root), FixedAnswers(answer), clock=lambda: 100.0)


def test_bytes_that_were_read_are_not_read_again(tmp_path):
    """What is already read is spoilt on disk: a collector that looked at it again would lose its figures."""
    run = make_run(tmp_path, "first")
    append_events(run, START, STEP, EVALUATED)
    collector = collector_of(tmp_path)
    assert collector.refresh().runs[0].metrics.map50 == 0.6
    run.journal.write_bytes(b"x" * run.journal.stat().st_size + b"\n")
    append_events(run, STEP | {"step": 50, "losses": {"box": 1.0, "obj": 0.2, "cls": 0.3}, "time": 50.0})
    facts = collector.refresh().runs[0]
    assert (facts.step, facts.loss, facts.metrics.map50, facts.attempts) == (50, 1.5, 0.6, 1)


def test_a_torn_last_line_is_read_when_it_is_whole(tmp_path):
    run = make_run(tmp_path, "first")
    append_events(run, START, STEP)
    whole = run.journal.read_bytes()
    run.journal.write_bytes(whole[:-10])
    collector = collector_of(tmp_path)
    assert collector.refresh().runs[0].step == 0
    with run.journal.open("ab") as file:
        file.write(whole[-10:])
    assert collector.refresh().runs[0].step == 10


def test_a_run_that_was_made_anew_is_read_anew(tmp_path):
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


def test_a_run_of_which_nothing_is_known_is_not_said_to_run(tmp_path):
    make_run(tmp_path, "prepared", executor=None)
    make_run(tmp_path, "rubbish", executor=None).journal.write_bytes(bytes(range(256)) * 50)
    assert [facts.state for facts in collector_of(tmp_path).refresh().runs] == ["unstarted", "unreadable"]


def test_a_run_that_vanishes_is_said_to_be_gone_until_it_is_back(tmp_path, monkeypatch):
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


def test_one_unreadable_run_does_not_hide_the_others(tmp_path):
    make_run(tmp_path, "a-bad").journal.mkdir()
    append_events(make_run(tmp_path, "b-good"), START, STEP)
    bad, good = collector_of(tmp_path).refresh().runs
    assert (bad.state, good.state) == ("unreadable", "running")
    assert "directory" in bad.detail


def test_run_of_an_older_format_is_shown_as_unreadable(tmp_path):
    append_events(make_run(tmp_path, "old"), START | {"format_version": 1}, STEP)
    (old,) = collector_of(tmp_path).refresh().runs
    assert old.state == "unreadable"
    assert "written by an older version of hpc-yolo (journal format 1" in old.detail


@pytest.mark.parametrize(
    ("events", "answer", "state", "detail"),
    [
        ([], None, "queued", "Slurm has not reported it yet"),
        ([], said("PENDING", 15, "Priority"), "queued", "Priority"),
        ([], said("RUNNING", 15), "running", ""),
        ([], said("FAILED", 15), "failed", "Slurm reports FAILED"),
        ([], said("CANCELLED", 15), "cancelled", "before it started"),
        ([START, STEP], said("CANCELLED", 30), "cancelled", "Slurm reports CANCELLED"),
        ([START, END], said("CANCELLED", 30), "cancelled", "SIGTERM; Slurm reports CANCELLED"),
        ([START, END | {"requeued": False, "cause": "cancelled"}], None, "cancelled", "SIGTERM"),
        ([START], None, "running", ""),
        ([START, LEFT], None, "saving", "SIGTERM (preempted or cancelled)"),
        ([START, LEFT | {"signal": 0}], said("RUNNING", 30), "saving", "after its last step"),
        ([START, LEFT | {"signal": 99}], None, "saving", "signal 99"),
        ([START, LEFT, START | {"attempt": 2}], None, "running", ""),
        ([START, END], said("PENDING", 30, "BeginTime"), "requeued", "BeginTime"),
        ([START, END], None, "requeued", "SIGTERM"),
        ([START, END | {"requeued": False}], None, "stopped", "SIGTERM"),
        ([START, END | {"outcome": "finished"}], said("COMPLETED", 30), "done", ""),
        ([START, END | {"outcome": "failed", "detail": "why"}], said("FAILED", 30), "failed", "why"),
        ([START, STEP], said("NODE_FAIL", 30), "failed", "Slurm reports NODE_FAIL"),
        # What Slurm said before the journal went on counts no more.
        ([START, STEP], said("PENDING", 15, "Priority"), "running", ""),
        ([START, END, START | {"attempt": 2}], said("REQUEUED", 21.5), "running", ""),
    ],
)
def test_the_state_is_what_the_newest_of_slurm_and_journal_says(tmp_path, events, answer, state, detail):
    append_events(make_run(tmp_path, "first"), *events)
    facts = collector_of(tmp_path, answer).refresh().runs[0]
    assert (facts.state, facts.detail) == (state, detail)


def test_slurm_is_not_asked_for_runs_that_have_come_to_their_end(tmp_path):
    append_events(make_run(tmp_path, "done", job_id="1"), START, END | {"outcome": "finished", "requeued": False})
    append_events(make_run(tmp_path, "again", job_id="2", time=99.0), START, END | {"requeued": False})
    append_events(make_run(tmp_path, "runs", job_id="3"), START)
    make_run(tmp_path, "local", job_id="4", executor="local")
    answers = FixedAnswers()
    snapshot = Collector(lambda: find_runs(tmp_path), answers).refresh()
    assert sorted(answers.wanted) == ["2", "3"]
    assert len(snapshot.runs) == 4


def test_with_a_budget_the_newest_journals_come_first_and_the_rest_later(tmp_path):
    for name in "abc":
        append_events(make_run(tmp_path, name), START)
    collector = collector_of(tmp_path)
    first = collector.refresh(budget_s=0.0)
    assert (first.runs, first.num_unread) == ([], 3)
    assert len(collector.refresh().runs) == 3


def test_a_run_that_was_over_is_looked_at_again(tmp_path, monkeypatch):
    run = make_run(tmp_path, "first")
    append_events(run, START, END | {"requeued": False})
    collector = collector_of(tmp_path)
    assert collector.refresh().runs[0].state == "stopped"
    append_events(run, START | {"attempt": 2}, STEP | {"attempt": 2, "step": 33})
    monkeypatch.setattr("hpc_yolo.monitor.snapshot.FIND_INTERVAL_S", 0.0)
    facts = collector.refresh().runs[0]
    assert (facts.state, facts.step, facts.attempts) == ("running", 33, 2)


def test_of_many_steps_a_few_are_read_and_the_last_always(tmp_path):
    run = make_run(tmp_path, "first")
    append_events(run, START, *(STEP | {"step": step} for step in range(1000)), EVALUATED, STEP | {"step": 1001}, END)
    kinds = [type(event).__name__ for event in JournalReader(run.journal).new_events(max_steps=50)]
    assert 45 <= kinds.count("StepLogged") <= 52
    assert kinds[-3:] == ["Evaluated", "StepLogged", "AttemptEnded"]
    assert len(JournalReader(run.journal).new_events()) == 1004


def test_a_trend_is_even_over_all_steps_and_forgets_what_was_lost():
    trend = Trend(max_points=50)
    for step in range(100_000):
        trend.add(step, float(step))
    assert len(trend.steps) <= 50
    assert len(trend.steps) > 20
    assert max(later - earlier for earlier, later in itertools.pairwise(trend.steps)) <= 2 * 4096
    assert trend.values[-1] == 99_999.0
    trend.add(40_000, 1.0)  # a new attempt goes on before what the one before it had reached
    assert (trend.steps[-1], trend.values[-1]) == (40_000, 1.0)
    assert len(resampled(trend, 8)) == 8


def record_of(*events) -> RunRecord:
    record = RunRecord()
    kinds = msgspec.json.Decoder(AnyEvent)
    record.add(kinds.decode(msgspec.json.encode({"time": 20.0 + n, "attempt": 1} | e)) for n, e in enumerate(events))
    return record


LOST = END | {"cause": "killed"}
SLOW = [
    STEP | {"rank_forward_s": [0.2, seconds], "step": step}
    for step, seconds in enumerate((0.4, 0.5, 0.4, 0.6, 0.3), start=1)
]
STEPS = [STEP | {"step": 10 * number} for number in range(1, 12)]
SAVED = {"event": "checkpoint", "epoch": 0, "step": 10, "path": "p", "size_bytes": 1, "seconds": 0.1}
SAVES = [START, SAVED, SAVED | {"time": 30.0}, STEP | {"time": 2000.0}]
LEVEL = [STEP | {"step": 2 * number} for number in range(1, 41)]
FALLING = [step | {"losses": {"box": 10 - 0.1 * number}} for number, step in enumerate(LEVEL)]


@pytest.mark.parametrize(
    ("events", "now", "problem"),
    [
        ([START, STEP], 25.0, None),
        ([START | {"format_version": 3}, STEP], 25.0, "written by a newer version (format 3, this one reads 2)"),
        ([START, STEP], 400.0, "no event for 6 min 19 s"),
        ([START, STEP | {"losses": {"box": 0.1, "cls": None}}], 25.0, "the loss is not a number"),
        ([START, STEP | {"rank_data_wait_s": [0.2, 0.2]}], 25.0, "40% of a step is waiting for data"),
        ([START, STEP | {"rank_data_wait_s": [0.11, 0.11]}], 25.0, "22% of a step"),
        (SAVES, 2000.0, "the last checkpoint is 32 min 50 s old"),
        ([*SAVES, SAVED | {"time": 1900.0}], 2000.0, None),
        ([START, *LEVEL], 65.0, "the loss has not fallen since step 42"),
        ([START, *FALLING], 65.0, None),
        ([START | {"epochs": 1, "steps_per_epoch": 100}, *LEVEL], 65.0, None),
        ([START, STEP | {"rank_data_wait_s": [0.0, 0.0, 0.3]}], 25.0, "rank 2 waits 0.30 s a step for data"),
        ([START, *SLOW], 25.0, "rank 1 computes 1.5 times as long as the others"),
        ([START, *SLOW[:4]], 25.0, None),
        ([START, *SLOW[:4], STEP | {"rank_forward_s": [0.3, 0.2]}], 25.0, None),
        ([START, *SLOW, START | {"attempt": 2, "time": 24.0}, *SLOW[:4]], 25.0, None),
        ([START | {"device_mem_bytes": 100}, STEP | {"rank_mem_bytes": [5, 98]}], 25.0, "98 B of 100 B"),
        ([START | {"device_mem_bytes": 100}, STEP | {"rank_mem_bytes": [5, 90]}], 25.0, None),
        ([START, *STEPS, *({**step, "images_per_s": 9.0, "step": 200} for step in STEPS[:1])], 35.0, None),
        ([START, *STEPS, *(STEP | {"images_per_s": 9.0, "step": 200 + n} for n in (1, 2))], 35.0, "usually 50.0"),
        ([START, LOST, *(event | {"attempt": n} for n in (2, 3) for event in (START, LOST))], 35.0, "3 x killed"),
    ],
)
def test_what_is_odd_is_said_and_only_that(events, now, problem):
    found = problems_of(record_of(*events), is_running=True, now=now)
    assert (found == []) if problem is None else any(problem in words for words in found)


@pytest.mark.parametrize(
    ("minutes", "jobs_needed", "words"),
    [
        (30, 0, "done in 2 min 10 s (the job has 30 min left)"),
        (1, 2, "done in 2 min 10 s; needs 2 more jobs (the job has 1 min left)"),
        (2, 1, "done in 2 min 10 s; needs 1 more job (the job has 2 min left)"),
    ],
)
def test_the_jobs_time_is_held_against_what_the_run_still_needs(tmp_path, minutes, jobs_needed, words):
    """390 steps of 16 images at 48 a second; the job began when it started to train."""
    append_events(make_run(tmp_path, "first"), START, STEP | {"images_per_s": 48.0})
    answer = said("RUNNING", 25.0)
    job = replace(answer.jobs["7"].job, start=time.strftime(SLURM_TIME, time.localtime(25.0)), time_left_s=60 * minutes)
    answer.jobs["7"] = msgspec.structs.replace(answer.jobs["7"], job=job)
    collector = Collector(lambda: find_runs(tmp_path), FixedAnswers(answer), clock=lambda: 25.0)
    facts = collector.refresh().runs[0]
    assert (facts.jobs_needed, facts.outlook) == (jobs_needed, words)


def test_attempts_are_counted_by_cause(tmp_path):
    preempted = END | {"cause": "preempted"}
    others = [event | {"attempt": n} for n in (2, 3) for event in (START, preempted if n == 2 else END)]
    append_events(make_run(tmp_path, "first"), START, preempted, *others)
    facts = collector_of(tmp_path, None).refresh().runs[0]
    assert facts.causes == {"preempted": 2, "stopped": 1}


def test_the_index_has_each_run_once_and_forgets_what_is_gone(tmp_path):
    directory = state_directory({"XDG_STATE_HOME": str(tmp_path / "state")})
    assert indexed_runs(directory) == []
    first, second = make_run(tmp_path, "first"), make_run(tmp_path, "second")
    for run in (first, second, first):
        add_to_index(directory, run)
    assert [run.name for run in indexed_runs(directory)] == ["first", "second"]
    assert len((directory / "runs.jsonl").read_text().splitlines()) == 2
    first.spec.unlink()
    assert [run.name for run in indexed_runs(directory)] == ["second"]
    assert gone_runs(directory) == [first.path], "moved, or removed by other means"
    remove_from_index(directory, first)
    assert gone_runs(directory) == []
    add_to_index(directory, first)  # made anew
    first.spec.write_text("name: run\n")
    assert [run.name for run in indexed_runs(directory)] == ["second", "first"]
    assert state_directory({"HOME": "/home/me"}).as_posix() == "/home/me/.local/state/hpc-yolo"


def test_an_index_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    add_to_index(tmp_path / "file" / "state", make_run(tmp_path, "first"))
    assert indexed_runs(tmp_path / "file" / "state") == []
