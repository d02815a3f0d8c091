"""Sweeps whose values are drawn when a trial starts, and whose stop rule ends trials, in processes of this machine."""

import json

import pytest
from waiting import wait_until

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, EpochEnded, Evaluated, TrialStopped
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.sweep import SweepDirectory, TrialRecord
from hpc_yolo.spec.load import dump_spec, load_resolved_spec, load_spec
from hpc_yolo.sweeps.search import ask, untold

LR0 = "train.hyp_overrides.lr0"
SPACE = {LR0: {"low": 0.001, "high": 0.1, "log": True}, "train.optimizer": ["SGD", "AdamW"]}
LOCAL_PAIR = {"executor": "local", "tasks_per_node": 2}
OVER = {"done", "stopped early"}
STOP = {"rule": "asha", "after": 1, "factor": 2}


def sweep_spec(write_spec, executor="local", trials=1, space=SPACE):
    sweep = {"search": {"trials": trials, "space": space}, "stop": STOP}
    cluster = {"executor": "slurm", "partition": "preempt"} if executor == "slurm" else LOCAL_PAIR
    return write_spec("search", cluster, {"epochs": 3}, sweep=sweep)


def run_search(hpc_yolo, spec, sweep):
    """Submit the sweep and wait until all its trials are done; return what was printed."""
    out = hpc_yolo("submit", spec).stdout
    states = ["sweep", "status", sweep, "--json"]
    wait_until(lambda: json.loads(hpc_yolo(*states).stdout)["states"].keys() <= OVER, "the end of all trials")
    return out


def add_evaluation(journal, fitness):
    """Add an evaluation of the first epoch to the journal of a finished trial, as if it had been that good."""
    before = journal.read_text().splitlines(keepends=True)
    metrics = Metrics(map50=fitness, map50_95=fitness)
    numbers = {"epoch": 0, "step": 1, "num_images": 1, "images_per_s": 1.0, "seconds": 1.0}
    JournalWriter(journal, attempt=1).write(Evaluated(metrics=metrics, is_best=True, classes=[], **numbers))
    added = journal.read_text().splitlines(keepends=True)[-1]
    journal.write_text("".join([*before[:-1], added, before[-1]]))


def check_search(write_spec, hpc_yolo, sweep, executor):
    """Run a trial, and a second one that is worse; check that it ends after an epoch, and that the study knows both."""
    run_search(hpc_yolo, sweep_spec(write_spec, executor), sweep)
    add_evaluation(RunDirectory(sweep / "1-0000").journal, fitness=0.9)
    out = run_search(hpc_yolo, sweep_spec(write_spec, executor, trials=2), sweep)
    assert "1 new, 1 finished" in out
    stopped = RunDirectory(sweep / "2-0000")
    events = read_events(stopped.journal)
    assert [event.epoch for event in events if isinstance(event, EpochEnded)] == [0]
    assert [event.epoch for event in events if isinstance(event, TrialStopped)] == [0]
    assert [event.cause for event in events if isinstance(event, AttemptEnded)] == ["finished"]
    assert (stopped.results / "evaluation.json").is_file()
    search = load_resolved_spec(sweep / "sweep.yaml").sweep.search
    assert untold(search, sweep) == ["2-0000"]
    rows = json.loads(hpc_yolo("sweep", "table", sweep, "--json").stdout)
    assert {row["name"]: row["state"] for row in rows} == {"1-0000": "done", "2-0000": "stopped early"}
    values = {row["name"]: row["values"] for row in rows}
    assert values == {name: ask(search, sweep, name) for name in ("1-0000", "2-0000")}
    assert values["1-0000"] != values["2-0000"]
    shown = json.loads(hpc_yolo("status", "--json", "--root", sweep).stdout)
    assert {run["name"]: run["detail"] for run in shown} == {"1-0000": "", "2-0000": "stopped early (asha)"}
    return out


@pytest.mark.soak
def test_worse_trial_ends_early_on_both_ranks_and_trains_on_with_other_epochs(write_spec, hpc_yolo, tmp_path):
    out = check_search(write_spec, hpc_yolo, tmp_path / "runs" / "search", "local")
    assert "stopped early after epoch 1: asha: fitness" in out
    stopped = RunDirectory(tmp_path / "runs" / "search" / "2-0000")
    hpc_yolo("resume", stopped.path, "--set", "train.epochs=2")
    assert [event.epoch for event in read_events(stopped.journal) if isinstance(event, EpochEnded)] == [0, 1]


def test_worse_trial_of_an_array_ends_early_and_is_not_requeued(in_slurm, write_spec, hpc_yolo, tmp_path):
    check_search(write_spec, hpc_yolo, tmp_path / "runs" / "search", "slurm")


MISTAKES = {
    "study of another space": ("space", "study of another space, which differs in train.hyp_overrides.lr0"),
    "Optuna is not installed": ("optuna", "needs the package optuna, which is not installed"),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES)
def test_search_that_cannot_run_queues_nothing(mistake, message, write_spec, hpc_yolo, tmp_path, monkeypatch):
    sweep = tmp_path / "runs" / "search"
    changed = SPACE | {LR0: {"low": 0.001, "high": 0.2}}
    if mistake == "space":
        sweep.mkdir(parents=True)
        ask(load_spec(sweep_spec(write_spec)).sweep.search, sweep, "1-0000")
        (sweep / "sweep.yaml").write_text(dump_spec(load_spec(sweep_spec(write_spec, space=changed))))
        SweepDirectory(sweep).write_trials([TrialRecord("1-0000", {}, "draw 0")])
    else:
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['optuna'] = None\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    refused = hpc_yolo("submit", sweep_spec(write_spec, trials=2, space=changed), check=False)
    assert refused.returncode not in (0, 1)
    assert message in refused.stderr and "Traceback" not in refused.stderr
    assert len(SweepDirectory(sweep).trials()) == (mistake == "space")
