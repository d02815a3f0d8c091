"""A search as the tasks of an array run it: each draws its values after the trials that have ended."""

import math
import statistics

import pytest
from journal_events import started

from hpc_yolo.launch.sweep import plan_sweep, prepare_sweep
from hpc_yolo.launch.trial import started_trial
from hpc_yolo.runs.events import AttemptEnded, Evaluated
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.spec.load import load_resolved_spec, load_spec

SPACE = {
    "train.hyp_overrides.lr0": {"low": 1e-5, "high": 0.1, "log": True},
    "train.hyp_overrides.momentum": {"low": 0.6, "high": 0.98},
    "train.optimizer": ["SGD", "Adam", "AdamW"],
}


def quality(train):
    """Return the known function: 1 at lr0 0.003, momentum 0.9 and SGD, less away from there, at least 0."""
    values = train.hyp_overrides
    away = (math.log10(values["lr0"] / 0.003) / 2) ** 2 + ((values["momentum"] - 0.9) / 0.2) ** 2
    return max(1 - away - {"SGD": 0.0, "Adam": 0.3, "AdamW": 0.1}[train.optimizer], 0.0)


def finish(run, score):
    """Write the journal of a run that has finished with this mAP."""
    writer = JournalWriter(run.journal, attempt=1)
    writer.write(started())
    seen = {"seconds": 1.0, "num_images": 8, "images_per_s": 8.0, "is_best": True, "classes": []}
    writer.write(Evaluated(epoch=0, step=5, metrics=Metrics(map50=score, map50_95=score), **seen))
    writer.write(AttemptEnded(outcome=AttemptEnded.FINISHED, epoch=1, step=5))


@pytest.fixture
def run_tasks(write_spec, monkeypatch):
    def run(name, method, num_trials, seed=0, score=quality):
        """Run the tasks of the array one after the other as their jobs do; return what each trains."""
        search = {"method": method, "trials": num_trials, "seed": seed, "space": SPACE}
        plan = plan_sweep(load_spec(write_spec(name, {"executor": "slurm"}, sweep={"search": search})))
        prepare_sweep(plan)
        trained = []
        for task in range(num_trials):
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
            trial = started_trial(plan.sweep.array(1).path)
            trained.append(load_resolved_spec(trial.spec).train)
            finish(trial, score(trained[-1]))
        return trained

    return run


@pytest.mark.soak
def test_tpe_in_the_tasks_of_an_array_finds_better_values_than_random(run_tasks):
    medians = {
        method: statistics.median(
            max(map(quality, run_tasks(f"{method}-{seed}", method, 60, seed))) for seed in range(20)
        )
        for method in ("tpe", "random")
    }
    print(medians)
    assert medians["tpe"] > medians["random"]


def test_tpe_draws_after_the_scores_of_ten_trials(run_tasks):
    """Without their results each task would draw at random, and nobody would notice."""
    good, bad = run_tasks("good", "tpe", 13), run_tasks("bad", "tpe", 13, score=lambda train: 1 - quality(train))
    assert good[:10] == bad[:10]
    assert all(one != other for one, other in zip(good[10:], bad[10:], strict=True))
