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


@pytest.mark.parametrize("to", TRACKERS)
def test_tracker_has_each_step_once(to, tmp_path, environ):
    """Of half a journal, then all of it, then once more; the last step waits for what comes with it."""
    run = make_run(tmp_path, "coco")
    whole = make_run(tmp_path, "whole")
    write_journal(whole)
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    run.journal.write_bytes(b"".join(lines[:100]) + lines[100][:20])
    num_rows = []
    for _ in range(3):
        done = track(run, to, environ, "--json")
        assert done.returncode == 0, done.stderr
        num_rows.append(json.loads(done.stdout)["rows"])
        found = READERS[to](run, tmp_path)
        check_series(found, last=LAST_STEP if len(num_rows) > 1 else found[-1][0])
        run.journal.write_bytes(b"".join(lines))
    assert 0 < num_rows[0] < LAST_STEP / 2
    if to != "wandb":  # which offline is written anew
        assert num_rows[1:] == [len(expected_steps()) - num_rows[0], 0]


def kill_while_followed(run, to, environ, num_kills, writer_s):
    """Follow a journal that grows, killing the process at random moments; return the number of processes."""
    random_s = random.Random(to)
    grower = subprocess.Popen([sys.executable, str(HELPERS / "growing_journal.py"), str(run.path), str(writer_s)])
    try:
        for _ in range(num_kills):
            follower = subprocess.Popen(command(run, to, "--follow"), env=environ, stdout=subprocess.PIPE)
            time.sleep(random_s.uniform(0.0, 2 * writer_s / num_kills))  # any moment will do
            follower.send_signal(signal.SIGKILL)
            follower.communicate()
    finally:
        grower.wait()
    done = track(run, to, environ, "--follow")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("to", TRACKERS)
def test_killed_follower_leaves_no_gap_and_no_duplicate(to, tmp_path, environ):
    run = make_run(tmp_path, "coco")
    kill_while_followed(run, to, environ, num_kills=3, writer_s=4.0)
    check_series(READERS[to](run, tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize("to", TRACKERS)
def test_follower_killed_100_times_leaves_no_gap_and_no_duplicate(to, tmp_path, environ):
    run = make_run(tmp_path, "coco")
    kill_while_followed(run, to, environ, num_kills=100, writer_s=300.0)
    check_series(READERS[to](run, tmp_path))
