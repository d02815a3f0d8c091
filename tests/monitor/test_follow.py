"""hpc-yolo follow: what is printed of a run, on a terminal and elsewhere."""

from io import StringIO

import msgspec
import pytest
from rich.console import Console
from status_runs import END, EVALUATED, START, STEP, append_events, make_run

from hpc_yolo.cluster.job_cache import Reply
from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.monitor.follow import RunDisplay, follow
from hpc_yolo.monitor.tracked_run import TrackedRun
from hpc_yolo.monitor.tui.detail import DetailReader
from hpc_yolo.runs.events import AnyEvent
from hpc_yolo.runs.failures import Failure, write_failure
from hpc_yolo.runs.submissions import add_submission, last_chain

FINISHED = END | {"outcome": "finished", "requeued": False, "detail": ""}
FAILED = FINISHED | {"outcome": "failed", "detail": "why"}
ODD_NAMES = ("car [rear]", "[red]x", "[/foo]", ":car:")


def class_metrics(name):
    return {"name": name, "num_labels": 1, "metrics": {"map50": 0.1}}


@pytest.fixture
def run(tmp_path):
    """A run of a process that has ended."""
    run = make_run(tmp_path, "run", executor="debug")
    append_events(run, START)
    return run


def test_names_of_classes_are_printed_as_they_are(run, capsys):
    append_events(run, EVALUATED | {"classes": [class_metrics(name) for name in ODD_NAMES]}, FINISHED)
    assert follow(run, JobWatch(run)) == 0
    printed = capsys.readouterr().out
    assert [name for name in ODD_NAMES if name not in printed] == []


def test_cause_of_a_failed_run_is_that_of_its_newest_attempt(run):
    """The first attempt stalled and was queued again; the second failed before its training began."""
    append_events(run, FAILED | {"time": 30.0, "cause": "stalled", "requeued": True})
    append_events(run, FAILED | {"time": 50.0, "attempt": 2, "cause": "error"})
    for time, message in ((29.0, "a stall"), (49.0, "no data")):
        fields = {"rank": 0, "host": "gpu0", "job_id": "7", "kind": "E", "traceback": "", "is_echo": False}
        write_failure(run, Failure(time=time, message=message, exit_code=3 if message == "no data" else 10, **fields))
    with pytest.raises(TrainingError, match="no data") as error:
        follow(run, JobWatch(run), since=10.0)
    assert error.value.exit_code == 3
    tracked = TrackedRun(run)
    tracked.read()
    assert tracked.facts(Reply(), 60.0).detail == "rank 0 on gpu0 failed: no data"
    assert DetailReader(run).read().failure == "rank 0 on gpu0 failed: no data"


def test_run_on_a_node_whose_clock_is_behind_is_followed_from_its_start(run, capsys):
    append_events(run, EVALUATED, FINISHED)
    assert follow(run, JobWatch(run), since=1000.0) == 0
    assert "attempt 1: 2 ranks" in capsys.readouterr().out


def test_end_of_an_earlier_job_with_the_same_process_id_is_not_that_of_the_new_one(tmp_path):
    """In containers the controllers of all jobs may have the same process id."""
    run = make_run(tmp_path, "run", executor="debug")
    append_events(run, START | {"launcher": "submitit-local"}, FINISHED)
    add_submission(run, msgspec.structs.replace(last_chain(run)[0], time=1000.0))
    with pytest.raises(TrainingError, match="ended without a record"):
        follow(run, JobWatch(run), since=1000.0)
    tracked = TrackedRun(run)
    tracked.read()
    assert tracked.facts(Reply(), 1001.0).state != "done"


def test_run_of_another_machine_is_followed_to_the_end_in_its_journal(tmp_path):
    run = make_run(tmp_path, "theirs", executor="local")
    append_events(run, START, FINISHED)
    assert follow(run, JobWatch(run)) == 0


def shown_on_a_terminal(*events, width=200):
    """Return what a terminal has got after `events`."""
    written = StringIO()
    console = Console(file=written, force_terminal=True, width=width, color_system=None)
    with RunDisplay(console, quiet=False) as display:
        display.show([msgspec.convert(event, AnyEvent) for event in events])
    return written.getvalue()


def test_time_left_follows_from_the_speed_that_the_run_reports():
    shown = shown_on_a_terminal(START, STEP | {"step": 150, "epoch": 1, "images_per_s": 20.0})
    assert "epoch 2/4" in shown
    assert "step 150/400" in shown
    assert "3 min 20 s left" in shown  # 250 steps of 16 images


def test_narrow_terminal_shows_epoch_time_left_and_step():
    long = START | {"epochs": 300, "steps_per_epoch": 7393}
    shown = shown_on_a_terminal(long, EVALUATED, STEP | {"step": 123456, "epoch": 16, "images_per_s": 1234.5}, width=80)
    assert "epoch 17/300  7 h 32 min left  step 123456/2217900  box" in shown


def test_resumed_attempt_begins_in_its_epoch():
    shown = shown_on_a_terminal(START | {"epoch": 2, "step": 250})
    assert "epoch 3/4" in shown
    assert "epoch 1/4" not in shown


def test_run_that_is_queued_again_is_shown_as_waiting():
    shown = shown_on_a_terminal(START, STEP, END)
    assert "stopped by SIGTERM at step 20, queued again" in shown
    assert "waiting for the job to start again" in shown
