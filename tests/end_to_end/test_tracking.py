"""Runs whose spec names a tracker: each logged step is in it once, without another command."""

from __future__ import annotations

import csv
import functools

import pytest
from spec_runs import SLOW_MODEL
from waiting import wait_until

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptStarted, Evaluated, StepLogged
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.sweep import SweepDirectory


def has_come_to(run: RunDirectory, attempt: int) -> bool:
    return any(event.attempt == attempt for event in read_events(run.journal) if isinstance(event, StepLogged))


def check_tracked(run: RunDirectory) -> None:
    """Check the CSV file of `run` against its journal."""
    (path,) = run.tracking.glob("*.csv")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    events = read_events(run.journal)
    steps = sorted({event.step for event in events if isinstance(event, StepLogged)})
    assert [int(line["step"]) for line in lines] == steps
    evaluated = {event.step: event.metrics.map50 for event in events if isinstance(event, Evaluated)}
    assert {int(line["step"]): float(line["evaluation/mAP50"]) for line in lines if line["epoch/seconds"]} == evaluated


def test_local_run_is_tracked_and_continues_when_it_is_resumed(write_spec, hpc_yolo, tmp_path):
    spec = write_spec("local", cluster={"executor": "local"}, train={"epochs": 1}, tracking={"to": "csv"})
    run = RunDirectory(tmp_path / "runs" / "local")
    done = hpc_yolo("submit", spec)
    check_tracked(run)
    (path,) = run.tracking.glob("*.csv")
    last = max(event.step for event in read_events(run.journal) if isinstance(event, StepLogged))
    assert done.stdout.splitlines()[-1].startswith("csv: local: ")
    assert done.stdout.splitlines()[-1].endswith(f", up to step {last}: {path}")
    assert "lacks the newest" not in hpc_yolo("resume", run.path, "--set", "train.epochs=2").stdout
    check_tracked(run)


@pytest.mark.soak
def test_followed_sweep_tracks_its_trials_from_the_submit_host(in_slurm, write_spec, hpc_yolo, tmp_path):
    """Nodes may have no network: the command that is followed starts the tracker, and no job does."""
    tracking = {"to": "csv", "in": "submit"}
    spec = write_spec("many", {"tasks_per_node": 1}, {"epochs": 1}, tracking=tracking, sweep={"seeds": 3, "limit": 1})
    done = hpc_yolo("submit", spec, "--follow")
    sweep = SweepDirectory(tmp_path / "runs" / "many")
    assert done.stdout.splitlines()[-1] == "csv: 3 trials of many to the end"
    for trial in sweep.trials():
        check_tracked(sweep.trial(trial.name))
    assert hpc_yolo("track", sweep.path).stdout.count("0 new rows, up to step ") == 3


def test_tracker_that_is_not_installed_is_reported_first(write_spec, hpc_yolo, tmp_path, monkeypatch):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text("import sys; sys.modules['trackio'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    spec = write_spec("none", cluster={"executor": "local"}, tracking={"to": "trackio"})
    done = hpc_yolo("submit", spec, check=False)
    assert done.returncode == 2
    assert "tracking.to: needs the package trackio" in done.stderr and "hpc-yolo[trackio]" in done.stderr
    assert not (tmp_path / "runs" / "none").exists()


def test_preempted_job_tracks_each_step_once(in_slurm, write_spec, hpc_yolo, tmp_path):
    """Training begins twice, with a process beside it each time; the job waits for the second one."""
    spec = write_spec(
        "tracked",
        cluster={"partition": "preempt", "requeue": "requeue"},
        train={"epochs": 5},
        checkpoint={"every_steps": 10, "every_s": None},
        tracking={"to": "csv"},
        model=SLOW_MODEL,
    )
    hpc_yolo("submit", spec)
    run = RunDirectory(tmp_path / "runs" / "tracked")
    wait_until(functools.partial(has_come_to, run, 1), "the first step")
    in_slurm.submit("#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive")
    wait_until(functools.partial(has_come_to, run, 2), "the second attempt")
    # Slurm 24.11 shows a job as PREEMPTED that was preempted and has completed since.
    wait_until(lambda: not in_slurm.run("squeue", "--noheader").strip(), "the job to leave the queue")
    check_tracked(run)
    events = read_events(run.journal)
    assert [event.attempt for event in events if isinstance(event, AttemptStarted)] == [1, 2]
