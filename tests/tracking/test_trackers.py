"""Each tracker has each step of a preempted run once, read back by its own reader."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from growing_journal import LAST_STEP, expected_steps, loss_at, write_journal
from status_runs import make_run
from tracker_readers import READERS, environment_of_trackers

HELPERS = Path(__file__).parents[1] / "helpers"
TRACKERS = sorted(READERS)
HEAVY, SOAK = {"mlflow", "trackio"}, pytest.mark.soak  # their import takes seconds
SLOW = ("mlflow", "wandb")  # to import and to open


@pytest.fixture
def environ(tmp_path):
    return environment_of_trackers(tmp_path)


def command(run, to, *options):
    return [sys.executable, "-m", "hpc_yolo", "track", str(run.path), "--to", to, *options]


def track(run, to, environ, *options):
    return subprocess.run(command(run, to, *options), env=environ, capture_output=True, text=True, check=False)


def check_series(found, *, last=LAST_STEP):
    """Check that (step, loss) pairs are those of the run, in its order."""
    assert [step for step, _ in found] == [step for step in expected_steps() if step <= last]
    assert [loss for _, loss in found] == pytest.approx([loss_at(step) for step, _ in found])


@pytest.mark.parametrize("to", [pytest.param(to, marks=SOAK if to in HEAVY else ()) for to in TRACKERS])
def test_tracker_has_each_step_once(to, tmp_path, environ):
    """Of half a journal, then all of it, then once more where that is quick; the last step waits for the next."""
    run = make_run(tmp_path, "coco")
    whole = make_run(tmp_path, "whole")
    write_journal(whole)
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    run.journal.write_bytes(b"".join(lines[:100]) + lines[100][:20])
    num_rows = []
    for _ in range(2 if to in SLOW else 3):
        done = track(run, to, environ, "--json")
        assert done.returncode == 0, done.stderr
        num_rows.append(json.loads(done.stdout)["rows"])
        found = READERS[to](run, tmp_path)
        check_series(found, last=LAST_STEP if len(num_rows) > 1 else found[-1][0])
        run.journal.write_bytes(b"".join(lines))
    assert 0 < num_rows[0] < LAST_STEP / 2
    if to != "wandb":  # which offline is written anew
        assert num_rows[1:] == [len(expected_steps()) - num_rows[0], 0][: len(num_rows) - 1]


def kill_while_followed(run, to, environ, tmp_path, num_kills):
    """Follow a journal that grows by processes that are killed at random, also after their first values."""
    whole = make_run(tmp_path, "whole")
    write_journal(whole)
    (tmp_path / "elsewhere").mkdir()
    began = time.monotonic()
    assert track(whole, to, environment_of_trackers(tmp_path / "elsewhere")).returncode == 0
    longest_s = 1.5 * (time.monotonic() - began)
    random_s = random.Random(to)
    seconds = str(num_kills * longest_s / 2)
    grower = subprocess.Popen([sys.executable, str(HELPERS / "growing_journal.py"), str(run.path), seconds])
    try:
        for _ in range(num_kills):
            follower = subprocess.Popen(command(run, to, "--follow"), env=environ, stdout=subprocess.DEVNULL)
            time.sleep(random_s.uniform(0.0, longest_s))  # any moment will do
            follower.send_signal(signal.SIGKILL)
            follower.wait()
    finally:
        grower.wait()
    done = track(run, to, environ, "--follow")
    assert done.returncode == 0, done.stderr


# mlflow takes most of a minute: its first process makes the tables of the database.
@pytest.mark.parametrize("to", [pytest.param(to, marks=SOAK if to in {*HEAVY, "wandb"} else ()) for to in TRACKERS])
def test_killed_follower_leaves_no_gap_and_no_duplicate(to, tmp_path, environ):
    run = make_run(tmp_path, "coco")
    kill_while_followed(run, to, environ, tmp_path, num_kills=2)
    check_series(READERS[to](run, tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize("to", TRACKERS)
def test_follower_killed_100_times_leaves_no_gap_and_no_duplicate(to, tmp_path, environ):
    run = make_run(tmp_path, "coco")
    kill_while_followed(run, to, environ, tmp_path, num_kills=100)
    check_series(READERS[to](run, tmp_path))
