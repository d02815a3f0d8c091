"""Sweeps whose values are drawn when a trial starts, and whose stop rule ends trials, in processes of this machine."""

import json

import pytest

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import EpochEnded, Evaluated, TrialStopped
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.sweep import SweepDirectory, TrialRecord
from hpc_yolo.spec.load import dump_spec, load_resolved_spec, load_spec
from hpc_yolo.sweeps.search import ask, untold

LR0 = "train.hyp_overrides.lr0"
SPACE = {LR0: {"low": 0.001, "high": 0.1, "log": True}, "train.optimizer": ["SGD", "AdamW"]}
STOP = {"rule": "asha", "after": 1, "factor": 2}


def sweep_spec(write_spec, method="tpe", trials=1, space=SPACE):
    sweep = {"search": {"method": method, "trials": trials, "space": space}, "stop": STOP}
    return write_spec("search", {"executor": "local"}, {"epochs": 3}, sweep=sweep)


def table(hpc_yolo, sweep):
    return {row["name"]: row for row in json.loads(hpc_yolo("sweep", "table", sweep, "--json").stdout)}


def test_worse_trial_of_a_search_ends_early_and_is_told(write_spec, hpc_yolo, tmp_path):
    hpc_yolo("submit", sweep_spec(write_spec))
    sweep = tmp_path / "runs" / "search"
    better = Metrics(map50=0.9, map50_95=0.9)  # what so few epochs cannot reach
    event = Evaluated(
        epoch=0, step=1, num_images=1, metrics=better, images_per_s=1, seconds=1, is_best=True, classes=[]
    )
    journal = RunDirectory(sweep / "1-0000").journal
    lines = journal.read_text().splitlines(keepends=True)
    JournalWriter(journal, attempt=1).write(event)
    *_, added = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:-1], added, lines[-1]]))
    out = hpc_yolo("submit", sweep_spec(write_spec, trials=2)).stdout
    assert "1 new, 1 finished" in out and "stopped early after epoch 1: asha: fitness" in out
    stopped = RunDirectory(sweep / "2-0000")
    assert [each.epoch for each in read_events(stopped.journal) if isinstance(each, EpochEnded)] == [0]
    assert [each.epoch for each in read_events(stopped.journal) if isinstance(each, TrialStopped)] == [0]
    assert (stopped.results / "evaluation.json").is_file()
    search = load_resolved_spec(sweep / "sweep.yaml").sweep.search
    assert untold(search, sweep) == ["2-0000"]
    rows = table(hpc_yolo, sweep)
    assert {name: (row["state"], row["values"]) for name, row in rows.items()} == {
        name: ("done", ask(search, sweep, name)) for name in ("1-0000", "2-0000")
    }
    assert rows["1-0000"]["values"] != rows["2-0000"]["values"]
    status = json.loads(hpc_yolo("status", "--json", "--root", sweep).stdout)
    assert {run["name"]: run["detail"] for run in status} == {"1-0000": "", "2-0000": "stopped early (asha)"}


MISTAKES = {
    "study of another space": ("space", "study of another space, which differs in train.hyp_overrides.lr0"),
    "Optuna is not installed": ("optuna", "needs the package optuna, which is not installed"),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES)
def test_search_that_cannot_run_queues_nothing(mistake, message, write_spec, hpc_yolo, tmp_path, monkeypatch):
    sweep = tmp_path / "runs" / "search"
    if mistake == "space":
        spec = load_spec(sweep_spec(write_spec))
        sweep.mkdir(parents=True)
        ask(spec.sweep.search, sweep, "1-0000")
        (sweep / "sweep.yaml").write_text(dump_spec(spec))
        SweepDirectory(sweep).write_trials([TrialRecord("1-0000", {}, "draw 0")])
    else:
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['optuna'] = None\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    changed = SPACE | {LR0: {"low": 0.001, "high": 0.2}}
    refused = hpc_yolo("submit", sweep_spec(write_spec, trials=2, space=changed), check=False)
    assert refused.returncode not in (0, 1)
    assert message in refused.stderr and "Traceback" not in refused.stderr
    assert len(SweepDirectory(sweep).trials()) == (mistake == "space")
