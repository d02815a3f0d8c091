"""A follower takes from the journal what the tracker lacks, alone, and for as long as the run goes on."""

import os
import subprocess
import sys
import threading
import time

import pytest
from growing_journal import LAST_STEP, expected_steps, write_journal
from status_runs import END, START, STEP, append_events, make_run
from waiting import wait_until

from hpc_yolo.core.errors import TrackerError
from hpc_yolo.core.files import exclusive_lock
from hpc_yolo.spec.tracking import TrackingSpec
from hpc_yolo.tracking import following
from hpc_yolo.tracking.csv_file import CsvTracker
from hpc_yolo.tracking.follower import RunFollower, lock_path
from hpc_yolo.tracking.following import Following, wait_for_tracker
from hpc_yolo.tracking.tracker import TrackedRun, run_config, run_identity, shown_name

CSV = TrackingSpec(to="csv")
FAILED = END | {"outcome": "failed", "requeued": False}


def csv_steps(run):
    (path,) = run.tracking.glob("*.csv")
    return [int(line.partition(",")[0]) for line in path.read_text().splitlines()[1:]]


def follower_of(run):
    return RunFollower(run, CsvTracker, "csv", run.tracking)


def following_of(run, is_alive=lambda: True):
    return Following(run, CSV, {}, is_alive=is_alive)


def logged(step, **fields):
    return STEP | {"step": step} | fields


def test_id_is_that_of_the_first_event_and_survives_a_move(tmp_path):
    run = make_run(tmp_path, "coco")
    assert run_identity(run) is None
    run.journal.write_text('{"event":"attempt_started"')
    assert run_identity(run) is None, "an incomplete line"
    append_events(run, START)
    first = run_identity(run)
    append_events(run, logged(1))
    assert run_identity(run) == first
    other = make_run(tmp_path, "other")
    append_events(other, START | {"time": 99.0})
    assert run_identity(other) != first
    run.path.rename(tmp_path / "moved")
    assert run_identity(make_run(tmp_path, "moved")) == first


def test_trial_has_the_name_of_its_sweep(tmp_path):
    run = make_run(tmp_path, "1-0007")
    assert shown_name(run) == "1-0007"
    (tmp_path / "sweep.json").write_text("{}")
    assert shown_name(run) == f"{tmp_path.name}-1-0007"


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("name: a\ntrain: {epochs: 3}\ncluster: {env: {TOKEN: x}}\nnotify: {}\n", {"name": "a", "train.epochs": 3}),
        ("- a\n", {}),
        ("{", {}),
    ],
    ids=["sections", "list", "torn"],
)  # fmt: skip
def test_config_has_what_is_learned_and_no_environment(text, config, tmp_path):
    run = make_run(tmp_path, "coco")
    run.spec.write_text(text)
    assert TrackedRun("id", "coco", run_config(run), tmp_path).flat_config == config


def test_second_process_is_refused(tmp_path):
    run = make_run(tmp_path, "coco")
    append_events(run, START)
    program = "import sys; from hpc_yolo.core.files import *; from pathlib import Path\n"
    program += "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); input()"
    run.tracking.mkdir()
    lock = lock_path(run, "csv", run.tracking)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrackerError, match="another process brings it to csv"):
            follower_of(run).__enter__()
        append_events(run, FAILED)
        waiting = threading.Thread(target=wait_for_tracker, args=(run, CSV))
        waiting.start()
        waiting.join(timeout=0.2)
        assert waiting.is_alive()
        holder.communicate("\n")
    waiting.join()


def test_nothing_is_waited_for_where_the_run_goes_on(tmp_path):
    run = make_run(tmp_path, "coco")
    append_events(run, START, END)
    wait_for_tracker(run, CSV)
    wait_for_tracker(run, None)
    assert not run.tracking.exists()


def test_directory_that_is_a_file_is_reported(tmp_path):
    run = make_run(tmp_path, "coco")
    run.tracking.write_text("")
    with pytest.raises(TrackerError, match=r"cannot be written: .*\n.*--dir"):
        follower_of(run).__enter__()


@pytest.mark.parametrize("torn", [b"", b"7", b"400,1.0,7,2", b"\x00\x00"], ids=["whole", "number", "line", "zeros"])
def test_torn_end_of_csv_is_cut(torn, tmp_path):
    run = make_run(tmp_path, "coco")
    write_journal(run)
    lines = run.journal.read_bytes().splitlines(keepends=True)
    run.journal.write_bytes(b"".join(lines[:60]))
    with follower_of(run) as follower:
        follower.advance()
    (path,) = run.tracking.glob("*.csv")
    path.write_bytes(path.read_bytes() + torn)
    run.journal.write_bytes(b"".join(lines))
    with follower_of(run) as follower:
        follower.advance()
        assert follower.last_step == LAST_STEP
        assert follower.end.is_finished
    assert csv_steps(run) == expected_steps()


def test_new_column_is_added_to_all_lines_of_csv(tmp_path):
    run = make_run(tmp_path, "coco")
    append_events(run, START, logged(1), logged(2), FAILED)
    with follower_of(run) as follower:
        follower.advance()
        append_events(run, START | {"attempt": 2}, logged(3, losses={"new": 7.0}, attempt=2), FAILED | {"attempt": 2})
        follower.advance()
    (path,) = run.tracking.glob("*.csv")
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert lines[0][-1] == "loss/new"
    assert [line[-1] for line in lines[1:]] == ["", "", "7.0"]
    assert len({len(line) for line in lines}) == 1


def test_follows_until_the_run_has_ended(tmp_path):
    run = make_run(tmp_path, "coco")
    one = following_of(run)
    assert one.look() is None, "it has not begun"
    append_events(run, START, logged(1), END)
    assert one.look() is None, "it goes on"
    append_events(run, START | {"attempt": 2}, logged(2, attempt=2), FAILED | {"attempt": 2})
    assert one.look().num_logged == 2
    assert csv_steps(run) == [1, 2]


def test_end_before_the_last_submission_is_none(tmp_path):
    run = make_run(tmp_path, "coco", time=50.0)
    append_events(run, START, logged(1), FAILED)
    one = following_of(run)
    assert one.look() is None
    append_events(run, START | {"attempt": 2}, FAILED | {"attempt": 2, "time": 60.0})
    assert one.look() is not None


def test_run_whose_job_is_gone_is_over(tmp_path):
    run = make_run(tmp_path, "coco")
    append_events(run, START, logged(1), logged(2))
    assert following_of(run, is_alive=lambda: False).look().last_step == 1


class Refusing(CsvTracker):
    """A CSV file whose first writes fail."""

    num_refused = 0

    def log(self, rows):
        if Refusing.num_refused:
            Refusing.num_refused -= 1
            super().log(rows[:1])
            raise TrackerError("csv: no answer")
        super().log(rows)


def refusing(monkeypatch, *, times):
    monkeypatch.setattr(Refusing, "num_refused", times)
    monkeypatch.setattr(following, "new_tracker", lambda _spec, _environ: Refusing())
    monkeypatch.setattr(following, "RETRY_S", 0.0)
    monkeypatch.setattr(following, "MAX_LOAD", float("inf"))


def test_tracker_that_does_not_answer_is_tried_again(tmp_path, monkeypatch, capsys):
    refusing(monkeypatch, times=3)
    run = make_run(tmp_path, "coco")
    append_events(run, START, *map(logged, range(1, 9)))
    one = following_of(run)
    for _ in range(4):
        assert one.look() is None
    append_events(run, FAILED)
    assert one.look() is not None
    assert csv_steps(run) == list(range(1, 9))
    assert capsys.readouterr().err == "coco: csv: no answer; is tried again\n"


def test_tracker_that_never_answers_is_given_up_after_the_end(tmp_path, monkeypatch):
    refusing(monkeypatch, times=99)
    run = make_run(tmp_path, "coco")
    append_events(run, START, *map(logged, range(1, 99)), FAILED)
    one = following_of(run)
    for _ in range(following.MAX_TRIES_AFTER_END):
        assert one.look() is None
    with pytest.raises(TrackerError, match="no answer"):
        one.look()


@pytest.mark.parametrize(
    ("limit", "value"),
    [("RETRY_S", 3600.0), ("MAX_LOAD", 1e-9)],  # each try reads the whole journal: 14 s for one of 300,000 lines
    ids=["after a while", "later where a try is expensive"],
)
def test_next_try_waits(tmp_path, monkeypatch, limit, value):
    refusing(monkeypatch, times=1)
    monkeypatch.setattr(following, limit, value)
    run = make_run(tmp_path, "coco")
    append_events(run, START, *map(logged, range(1, 9)))
    one = following_of(run)
    assert one.look() is None
    assert one.look() is None
    assert csv_steps(run) == [1]


def test_command_beside_a_process_ends_with_it(tmp_path):
    run = make_run(tmp_path, "coco")
    run.spec.write_text("name: coco\nmodel: yolov5n\ndata: data.yaml\ntracking: {to: csv}\n")
    append_events(run, START, logged(1), logged(2))
    shell = f"{sys.executable} -m hpc_yolo track-beside {run.path} & echo $!; read line"
    with subprocess.Popen(["bash", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        wait_until(lambda: list(run.tracking.glob("*.csv")) and csv_steps(run) == [1], "the first line")
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.read() == f"coco: 1 new row, up to step 1: {next(run.tracking.glob('*.csv'))}\n"
    wait_until(lambda: not is_alive(pid), "the end of the process")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    time.sleep(0)
    return True


def test_lock_of_a_killed_process_is_free(tmp_path):
    run = make_run(tmp_path, "coco")
    run.tracking.mkdir()
    program = "import os, sys; from hpc_yolo.core.files import *; from pathlib import Path\n"
    program += "with exclusive_lock(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, str(lock_path(run, "csv", run.tracking))], check=False)
    with exclusive_lock(lock_path(run, "csv", run.tracking), 0):
        pass
