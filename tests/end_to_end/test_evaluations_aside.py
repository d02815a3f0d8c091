"""`validate: aside` on a real Slurm: a job of its own evaluates while the run trains."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from spec_runs import SLOW_MODEL
from waiting import wait_until

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.evaluations import results_by_epoch, waiting_epochs
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Evaluated

TRAIN = {"epochs": 20, "val_every": 4, "batch": 40, "imgsz": 32, "stall_timeout_s": 300}
RARELY_SAVED = {"every_epochs": 0, "every_s": None}


def send(started: AttemptStarted, number: signal.Signals) -> None:
    """Send a signal to all ranks."""
    for rank in started.ranks:
        os.kill(rank.pid, number)


def metrics_of(events: list[Any]) -> list[tuple[object, ...]]:
    return [(event.epoch, event.step, event.metrics, event.is_best, event.classes) for event in events]


@pytest.mark.soak
def test_job_beside_the_training_evaluates_its_models(
    in_slurm: Any,
    write_spec: Callable[..., Path],
    hpc_yolo: Callable[..., Any],
    events_of: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    """The training is held while the job evaluates: tests do not depend on which of the two is faster."""
    for name in ("in_job", "aside"):
        spec = write_spec(name, train=TRAIN, checkpoint=RARELY_SAVED, validate=name, model=SLOW_MODEL)
        shown = hpc_yolo("submit", spec).stdout
        assert ("validation     aside: jobs of one task evaluate the models" in shown) == (name == "aside")
    run = RunDirectory(tmp_path / "runs" / "aside")
    wait_until(lambda: waiting_epochs(run), "a model waits")
    (started,) = events_of("aside", AttemptStarted)
    send(started, signal.SIGSTOP)
    try:
        wait_until(lambda: results_by_epoch(run) and not waiting_epochs(run), "the job has evaluated the models")
        jobs = in_slurm.run("squeue", "--noheader", "--format=%j").split()
        assert jobs.count("aside-val") <= 1
    finally:
        send(started, signal.SIGCONT)
    wait_until(lambda: events_of("in_job", AttemptEnded) and events_of("aside", AttemptEnded), "both have ended")
    evaluations = events_of("aside", Evaluated)
    assert [event.epoch for event in evaluations] == [3, 7, 11, 15, 19]
    assert [event.is_aside for event in evaluations][0::4] == [True, False]
    assert metrics_of(evaluations) == metrics_of(events_of("in_job", Evaluated))
    ours, theirs = (
        safetensors.torch.load_file(run.last.parents[2] / name / "checkpoints/last.safetensors")
        for name in ("aside", "in_job")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    job_id = json.loads(run.submissions.read_text())["job_id"]
    in_slurm.wait_for_state(job_id, "COMPLETED")
    log = (run.jobs / f"{job_id}.log").read_text()
    num_jobs = log.count("evaluates the models that wait")
    assert 1 <= len(list(run.evaluations.glob("*.log"))) <= num_jobs <= 4, log
    assert not run.evaluation_job.exists(), "a job that waits is cancelled when the run has finished"
    wait_until(lambda: "aside-val" not in in_slurm.run("squeue", "--noheader", "--format=%j"), "no job is left")
