"""A sweep is one row: its state, counts and best trial follow from those of its trials."""

import pytest

from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.sweep_rows import folded, sweep_row, with_trials
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.metrics import Metrics


def trial(number, state, fitness=None):
    best = None
    if fitness is not None:
        metrics = Metrics(map50=fitness, map50_95=fitness)
        best = Evaluated(
            epoch=0, step=1, metrics=metrics, classes=[], num_images=1, images_per_s=1.0, seconds=1.0, is_best=True
        )
    name = f"1-000{number}"
    return RunFacts(name=name, path=f"/lr/{name}", state=state, sweep="/lr", best=best, updated=float(number))


@pytest.mark.parametrize(
    ("states", "num_trials", "state", "detail"),
    [
        ([], 4, "unstarted", "4 trials: 4 not begun"),
        (["done", "running", "queued"], 4, "running", "4 trials: 1 running, 1 queued, 1 done, 1 not begun"),
        (["done", "requeued"], 2, "requeued", "2 trials: 1 requeued, 1 done"),
        (["done", "failed", "done"], 3, "failed", "3 trials: 1 failed, 2 done"),
        (["done"], 1, "done", "1 trial: 1 done"),
        (["cancelled", "done"], 2, "cancelled", "2 trials: 1 cancelled, 1 done"),
    ],
)
def test_state_of_a_sweep_is_that_of_its_liveliest_trial(states, num_trials, state, detail):
    row = sweep_row("/lr", num_trials, [trial(number, state) for number, state in enumerate(states)])
    assert (row.name, row.state, row.detail, row.num_trials) == ("lr", state, detail, num_trials)
    assert bool(row.problems) == ("failed" in states)


def test_sweep_has_the_metrics_of_its_best_trial():
    row = sweep_row("/lr", 3, [trial(0, "done", 0.2), trial(1, "running", 0.5), trial(2, "queued")])
    assert row.metrics.map50_95 == 0.5 and row.detail.endswith("best: 1-0001")
    assert row.updated == 2.0


def test_trials_are_listed_below_an_open_sweep_the_best_first():
    other = RunFacts(name="a", path="/a", state="done")
    runs = [other, trial(0, "done", 0.1), trial(1, "done", 0.3), trial(2, "queued")]
    rows, trials = folded(runs, {"/lr": 5})
    assert [row.name for row in rows] == ["a", "lr"]
    assert [row.name for row in with_trials(rows, trials, {"/lr"})] == ["a", "lr", "1-0001", "1-0000", "1-0002"]
    assert with_trials(rows, trials, ()) == rows
