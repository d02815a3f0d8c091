"""Killed, stormed with signals, taken up by another number of ranks: a run ends as if nobody had touched it.

The runs are those of `forked_runs.py`. `KILLS` in the environment says how many kills there are (`make soak`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_runs import EVERY_STEPS
from tensor_digest import digest
from waiting import PATIENCE_S

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause, StepLogged
from hpc_yolo.runs.journal import read_events

PROGRAM = Path(__file__).parents[1] / "helpers" / "forked_runs.py"
NUM_KILLS = int(os.environ.get("KILLS", "20"))
SECONDS_A_KILL = 30
pytestmark = pytest.mark.kills


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """All runs, ended."""
    directory = tmp_path_factory.mktemp("forked")
    command = [sys.executable, str(PROGRAM), str(directory), str(NUM_KILLS)]
    subprocess.run(command, check=True, timeout=PATIENCE_S + SECONDS_A_KILL * NUM_KILLS)
    return directory


def attempts(directory: Path, name: str) -> list[dict]:
    return json.loads((directory / name / "attempts.json").read_text())


def events(directory: Path, name: str, kind: type) -> list:
    return [event for event in read_events(RunDirectory(directory / name).journal) if isinstance(event, kind)]


def killed_runs(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("killed-*"))


def output_of(directory: Path, name: str) -> str:
    return (directory / name / "output-0").read_text()


def test_run_killed_at_any_moment_ends_with_the_weights_of_an_undisturbed_one(directory):
    reference = {path.name.partition("-")[2]: digest(RunDirectory(path)) for path in directory.glob("undisturbed-?-*")}
    done = [attempt["done"] for name in killed_runs(directory) for attempt in attempts(directory, name)]
    assert sum(map(bool, done)) == NUM_KILLS
    assert {name: digest(RunDirectory(directory / name)) for name in killed_runs(directory)} == {
        name: reference[name.split("-", 2)[2]] for name in killed_runs(directory)
    }
    if NUM_KILLS >= 20:
        assert {"kill of rank 0", "kill of rank 1", "kill of a worker of rank 0"} <= set(done)


def test_loss_is_at_most_an_interval_and_the_save_in_progress(directory):
    for name in killed_runs(directory):
        reached: dict[int, int] = {}
        for event in events(directory, name, AttemptStarted | StepLogged):
            if isinstance(event, AttemptStarted) and reached:
                assert max(reached.values()) - event.step < 2 * EVERY_STEPS, name
            reached[event.attempt] = event.step


def test_killed_rank_ends_the_others_and_they_only_echo_it(directory):
    """The next attempt counts it as killed, and a rank whose loader worker dies says so; neither is our mistake."""
    for name in killed_runs(directory):
        for attempt in attempts(directory, name):
            if set(attempt["ends"].values()) == {0}:
                continue  # whoever was killed had done its work already
            if "kill of rank" in attempt["done"]:
                assert min(attempt["ends"].values()) == -9
                assert set(attempt["ends"].values()) <= {-9, 10, 11}, "the other lost its connection, or its peer"
            elif attempt["done"]:
                assert attempt["ends"][attempt["done"][-1]] == 11, output_of(directory, name)
                assert 0 not in attempt["ends"].values()
        causes = {event.cause for event in events(directory, name, AttemptEnded)}
        assert causes <= {Cause.KILLED, Cause.FINISHED}, name


def test_storm_of_signals_loses_and_repeats_no_step(directory):
    *stormed, last = attempts(directory, "storm")
    for attempt in stormed:
        assert int(attempt["done"].split()[0]) > 10, "no storm"
        (code,) = set(attempt["ends"].values())
        assert code in (128 + 2, 128 + 12, 128 + 15), "both leave for the same signal, after the same step"
    assert set(last["ends"].values()) == {0}
    steps = [event.step for event in events(directory, "storm", StepLogged)]
    assert steps == list(range(1, len(steps) + 1))
    assert digest(RunDirectory(directory / "storm")) == digest(RunDirectory(directory / "undisturbed-2-anchors"))
    for path in (directory / "storm").glob("output-*"):
        assert "Traceback" not in path.read_text()


def test_other_number_of_ranks_learns_the_same(directory):
    """1, 2, 4, 2 and 1 ranks, one after the other: same samples at every step, so the same losses but for rounding."""
    assert [event.world_size for event in events(directory, "worlds", AttemptStarted)] == [1, 2, 4, 2, 1]
    expected, changed = (events(directory, name, StepLogged) for name in ("undisturbed-world", "worlds"))
    assert [event.step for event in changed] == [event.step for event in expected]
    assert [event.lr for event in changed] == [event.lr for event in expected]
    for mine, theirs in zip(changed, expected, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-6), f"step {mine.step}"
