"""Messages about sweeps: one at the end of all trials, and one about the first that fails."""

from __future__ import annotations

import json

import pytest
from status_runs import END, EVALUATED, START, STEP, append_events, make_run

from hpc_yolo.notify.ends import notify_end, notify_stages
from hpc_yolo.runs.events import Cause
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import StageRecord, claim_stage
from hpc_yolo.runs.submissions import Submission, add_submission
from hpc_yolo.runs.sweep import SweepDirectory, TrialRecord
from hpc_yolo.spec.notify import NotifySpec

NOTIFY = NotifySpec(command='cat >> "$HPC_YOLO_DIRECTORY/../messages"', on=["finished", "failed", "problem"])
ENVIRON = {"PATH": "/usr/bin:/bin"}
NAMES = ["1-0000", "1-0001", "1-0002"]
FINISHED = END | {"outcome": "finished", "requeued": False, "cause": "finished"}
FAILED = END | {"outcome": "failed", "requeued": False, "cause": "error", "detail": "ValueError: bad"}


class Sweep:
    """A sweep of three trials."""

    def __init__(self, root) -> None:
        self.root = root
        self.directory = SweepDirectory(root / "sweep")
        self.directory.path.mkdir(mode=0o700)
        trials = [TrialRecord(name, {"train.seed": number}, name) for number, name in enumerate(NAMES)]
        self.directory.write_trials(trials)

    def start(self, *names: str) -> None:
        for name in names:
            append_events(make_run(self.directory.path, name), START, STEP, EVALUATED)

    def end(self, name: str, event: dict[str, object], attempt: int = 1) -> None:
        append_events(self.directory.trial(name), event | {"attempt": attempt})
        end = RunEnd(attempt, is_finished=event["outcome"] == "finished", cause=str(event["cause"]))
        notify_end(self.directory.trial(name), NOTIFY, end, ENVIRON, job_id="7")

    @property
    def messages(self) -> list[dict[str, object]]:
        found = [self.root / "messages", self.directory.path / "messages"]
        return [json.loads(line) for path in found if path.exists() for line in path.read_text().splitlines()]

    @property
    def events(self) -> list[tuple[object, object]]:
        return sorted((message["name"], message["event"]) for message in self.messages)


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


def test_sweep_sends_one_message_when_its_last_trial_has_finished(sweep):
    sweep.start(*NAMES)
    better = EVALUATED | {"metrics": {"precision": 1, "recall": 1, "map50": 0.9, "map50_95": 0.8}}
    append_events(sweep.directory.trial(NAMES[1]), better)
    for name in NAMES:
        assert sweep.messages == []
        sweep.end(name, FINISHED)
    (message,) = sweep.messages
    assert (message["event"], message["name"], message["trials"]) == ("finished", "sweep", 3)
    assert (message["best_trial"], message["values"]) == (NAMES[1], {"train.seed": 1})
    assert message["subject"] == "[hpc-yolo] sweep finished: mAP50-95 0.800"
    assert "trials     3, 0 failed\n" in message["text"] and "values     seed=1\n" in message["text"]
    sweep.end(NAMES[0], FINISHED)
    assert len(sweep.messages) == 1


def test_first_trial_that_fails_is_a_problem_and_the_end_counts_all(sweep):
    sweep.start(*NAMES)
    for name in NAMES:
        sweep.end(name, FAILED)
    assert sweep.events == [("sweep", "failed"), (f"sweep/{NAMES[0]}", "problem")]
    problem, end = sweep.messages if sweep.messages[0]["event"] == "problem" else reversed(sweep.messages)
    assert problem["reason"] == f"trial {NAMES[0]} failed: error" and "ValueError: bad" in problem["error"]
    assert end["reason"] == "3 of 3 trials failed"


def test_trials_that_are_submitted_again_make_another_end(sweep):
    sweep.start(*NAMES)
    sweep.end(NAMES[0], FINISHED)
    for name in NAMES[1:]:
        sweep.end(name, FAILED)
    array = sweep.directory.array(1)
    array.path.mkdir()
    jobs = {"executor": "slurm", "job_id": "8", "host": "login", "num_nodes": 1, "tasks_per_node": 1}
    add_submission(array, Submission(time=50.0, gpus_per_node=0, **jobs))
    for name in NAMES[1:]:
        assert [event for _, event in sweep.events].count("failed") == 1
        append_events(sweep.directory.trial(name), START | {"attempt": 2, "time": 60.0})
        sweep.end(name, FINISHED | {"time": 70.0}, attempt=2)
    assert [event for _, event in sweep.events] == ["failed", "finished", "problem"]


def test_trial_that_a_person_has_cancelled_may_go_on(sweep):
    sweep.start(*NAMES)
    sweep.end(NAMES[0], FAILED | {"outcome": "stopped", "cause": Cause.CANCELLED})
    for name in NAMES[1:]:
        sweep.end(name, FINISHED)
    assert sweep.messages == []


def test_stage_that_fails_in_all_trials_is_reported_once(sweep):
    sweep.start(*NAMES)
    for name in NAMES:
        run = sweep.directory.trial(name)
        claim_stage(run, StageRecord(stage="val", end=1, number=1, state="failed", detail="exit code 3", began=1.0))
        notify_stages(run, NOTIFY, ENVIRON, job_id="7")
    assert sweep.events == [(f"sweep/{NAMES[0]}", "problem")]
