"""Messages about ends and problems: one for each, by whichever process sees it first."""

from __future__ import annotations

import json

import pytest
from status_runs import END, EVALUATED, START, STEP, append_events, make_run

from hpc_yolo.monitor.alerts import NEEDS_PERSON, problems_by_kind
from hpc_yolo.monitor.run_record import RunRecord
from hpc_yolo.notify.ends import notify_end, notify_followed_end, notify_stages
from hpc_yolo.notify.message import end_message
from hpc_yolo.notify.problems import ProblemWatch
from hpc_yolo.notify.record import read_record
from hpc_yolo.runs.events import Cause
from hpc_yolo.runs.failures import Failure, write_failure
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import StageRecord, claim_stage
from hpc_yolo.spec.notify import NotifySpec

ENVIRON = {"PATH": "/usr/bin:/bin"}
COLLECT = NotifySpec(command='cat >> "$HPC_YOLO_DIRECTORY/messages"')
FINISHED = RunEnd(1, is_finished=True, cause=Cause.FINISHED)
FAILED = RunEnd(1, is_finished=False, cause=Cause.OUT_OF_MEMORY)
CANCELLED = RunEnd(1, is_finished=False, cause=Cause.CANCELLED)
ENDED = END | {"requeued": False, "outcome": "failed", "cause": "out of memory", "detail": "the memory ran out"}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, "run")


def messages(run) -> list[dict[str, object]]:
    path = run.path / "messages"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def events(run) -> list[object]:
    return [message["event"] for message in messages(run)]


def test_message_of_a_finished_run(run):
    append_events(run, START, STEP, EVALUATED, END | {"outcome": "finished", "requeued": False, "step": 400})
    message = end_message(run, read_record(run), FINISHED)
    assert message.subject == "[hpc-yolo] run finished: mAP50-95 0.400"
    assert message.text == (
        "run finished\n\ntrained    4 of 4 epochs, step 400\ntime       3 s in 1 attempt\n"
        "best       epoch 1: precision 0.5000, recall 0.5000, mAP50 0.6000, mAP50-95 0.4000\n"
        f"directory  {run.path}\n\nnext:  hpc-yolo report {run.path}\n"
    )


def test_message_of_a_failed_run_has_its_error_and_what_to_type(run):
    append_events(run, START | {"device": "H100"}, STEP, ENDED)
    (run.jobs / "7.log").write_text("0: line\n0: Killed\n")
    message = end_message(run, read_record(run), FAILED)
    assert message.subject == "[hpc-yolo] run failed: out of memory"
    assert message.error == ["the memory ran out", "0: line", "0: Killed"]
    assert message.following == [f"hpc-yolo logs {run.path}", f"hpc-yolo resume {run.path}"]
    assert message.gpu_hours == 2 * message.hours > 0
    fields = {"rank": 1, "host": "gpu1", "job_id": "7", "kind": "ValueError", "exit_code": 1, "is_echo": False}
    traceback = "\n".join(["Traceback", *map(str, range(20)), "ValueError: bad"])
    write_failure(run, Failure(time=21.0, message="bad", traceback=traceback, **fields))
    error = end_message(run, read_record(run), FAILED).error
    assert (len(error), error[-1]) == (12, "ValueError: bad")


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (b"before\0after\n", ["before\\x00after"]),
        (b"\x1b[31mred\x1b[0m\n\n\tindented\n", ["red", "        indented"]),
        (b"x" * 200_000, ["x" * 299 + "…"]),
        (f"{'0' * 40} ".encode() * 25_000, [f"{'0' * 40} " * 7 + "0" * 12 + "…"]),  # 25,000 checksums
        (b"+ export WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567\n", ["+ export WANDB_API_KEY=…"]),
        (b"", []),
    ],
    ids=["zero byte", "terminal", "endless line", "checksums", "key", "nothing"],
)
def test_any_output_can_be_sent_as_an_error_and_holds_no_key(run, output, shown):
    """A variable of a command takes no zero byte and 128 KiB; a key in the log must not reach a chat."""
    append_events(run, START)
    (run.jobs / "7.log").write_bytes(output)
    notice = notify_end(run, COLLECT, RunEnd(1, is_finished=False, cause=Cause.ERROR), ENVIRON, job_id="7")
    assert notice is not None
    assert notice.results == {"command": ""}
    assert messages(run)[0]["error"] == shown


@pytest.mark.parametrize(
    ("end", "on", "expected"),
    [
        (FINISHED, None, ["finished"]),
        (FAILED, None, ["failed"]),
        (CANCELLED, None, []),
        (CANCELLED, ["cancelled"], ["cancelled"]),
        (FINISHED, "failed", []),
    ],
)
def test_end_is_reported_once_where_the_spec_asks_for_it(run, end, on, expected):
    notify = COLLECT if on is None else NotifySpec(command=COLLECT.command, on=on)
    for _ in range(2):
        notify_end(run, notify, end, ENVIRON, job_id="7")
    assert events(run) == expected


def test_each_job_that_ends_before_it_has_an_attempt_is_reported(run):
    before = RunEnd(0, is_finished=False, cause=Cause.ERROR)
    for job_id in ("7", "7", "8"):
        notify_end(run, COLLECT, before, ENVIRON, job_id=job_id)
    assert events(run) == ["failed", "failed"]


def test_follower_sends_what_the_job_could_not(run):
    append_events(run, START, ENDED)
    notify = NotifySpec(command='[ -e allowed ] && cat >> "$HPC_YOLO_DIRECTORY/messages"')
    notify_end(run, notify, FAILED, ENVIRON, job_id="7")
    assert events(run) == []
    (run.path / "allowed").touch()
    for _ in range(2):
        notify_followed_end(run, notify, ENVIRON)
    assert events(run) == ["failed"]


def test_follower_reports_an_end_that_nobody_has_reported(run):
    append_events(run, START)
    notify_followed_end(run, COLLECT, ENVIRON)
    assert events(run) == [], "it may go on"
    append_events(run, ENDED)
    notify_followed_end(run, COLLECT, ENVIRON)
    assert events(run) == ["failed"]


def test_stage_that_failed_is_a_problem_once(run):
    common = {"end": 2, "began": 1.0, "ended": 2.0}
    claim_stage(run, StageRecord(stage="val", number=1, state="failed", detail="exit code 3", **common))
    claim_stage(run, StageRecord(stage="export", number=1, state="done", **common))
    for _ in range(2):
        notify_stages(run, COLLECT, ENVIRON, job_id="7")
    (message,) = messages(run)
    assert (message["event"], message["reason"]) == ("problem", "stage val failed: exit code 3")
    assert message["following"] == [f"hpc-yolo resume {run.path}"]


BAD_LOSS = STEP | {"losses": {"box": None}}


def test_problem_is_reported_when_it_lasts_and_once(run):
    append_events(run, START, STEP)
    watch = ProblemWatch(run, COLLECT, ENVIRON, job_id="7", clock=lambda: 20.0)
    watch.look()
    append_events(run, BAD_LOSS)
    watch.look()
    assert messages(run) == [], "it may pass"
    for _ in range(3):
        watch.look()
    again = ProblemWatch(run, COLLECT, ENVIRON, job_id="7", clock=lambda: 20.0)
    again.look()
    again.look()
    assert [message["reason"] for message in messages(run)] == ["the loss is not a number"]


@pytest.mark.parametrize(
    ("began", "expected"), [(20.0, ["no event for 2 h 46 min"]), (21.0, [])], ids=["trains", "was in the queue"]
)
def test_pause_counts_from_the_start_of_this_job(run, began, expected):
    append_events(run, START)
    times = iter([began, *[10_000.0] * 9])
    watch = ProblemWatch(run, COLLECT, ENVIRON, job_id="7", clock=lambda: next(times))
    watch.look()
    watch.look()
    assert [message["reason"] for message in messages(run)] == expected


def test_kinds_that_need_a_person_are_kinds_of_problems():
    assert set(NEEDS_PERSON) <= problems_by_kind(RunRecord(), is_running=True, now=0.0).keys()
