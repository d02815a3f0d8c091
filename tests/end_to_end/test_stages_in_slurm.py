"""Stages after a run that Slurm preempts twice: each runs once, and one that is killed runs again alone."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path

import pytest
from spec_runs import SLOW_MODEL
from waiting import wait_until

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause, StepLogged
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.stages import read_stages
from hpc_yolo.runs.submissions import all_submissions, stage_submissions

EPOCHS = 8
TRAIN = {"epochs": EPOCHS, "val_every": EPOCHS}
CHECKPOINT = {"every_steps": 10, "every_s": None}
NOTE = "echo $STAGE $CAUSE $SLURM_JOB_ID >> $RUN/notes"
THEN = [
    {"shell": NOTE, "in": "job"},
    {"shell": NOTE, "in": "job_of_its_own"},
    {"shell": NOTE, "in": "job_of_its_own", "when": "always", "cluster": {"partition": "gpu", "time": "00:02:00"}},
    {"shell": NOTE, "in": "job_of_its_own", "when": "failure"},
    {"shell": NOTE, "in": "job", "when": "failure"},
]


@pytest.fixture
def submitted(in_slurm, write_spec, hpc_yolo, tmp_path):
    """Submit a run with stages; (its directory, its job's id)."""

    def submit(name: str, then: list[dict[str, object]], train: dict[str, object], **cluster: str):
        cluster = {"partition": "preempt"} | cluster
        spec = write_spec(name, cluster, train, checkpoint=CHECKPOINT, then=then, model=SLOW_MODEL)
        hpc_yolo("submit", spec)
        run = RunDirectory(tmp_path / "runs" / name)
        return run, all_submissions(run)[0].job_id

    return submit


def preempt_twice(cluster, run: RunDirectory) -> None:
    for attempt, step in ((1, 5), (2, 15)):
        wait_until(functools.partial(has_come_to, run, attempt, step), f"step {step}")
        cluster.submit("#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive")


def has_come_to(run: RunDirectory, attempt: int, step: int) -> bool:
    steps = (event for event in read_events(run.journal) if isinstance(event, StepLogged))
    return any(event.attempt == attempt and event.step >= step for event in steps)


def wait_for_all_jobs(cluster) -> None:
    wait_until(lambda: not cluster.run("squeue", "--noheader", "--format=%A").split(), "all jobs to end")


def notes(run: RunDirectory) -> list[list[str]]:
    """Return (stage, cause, job) of each stage that ran, in order."""
    path = run.path / "notes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def states(run: RunDirectory, hpc_yolo) -> dict[str, str]:
    """Return the state of each stage as status reports it."""
    (facts,) = json.loads(hpc_yolo("status", "--root", run.path.parent, "--json").stdout)
    return {stage["name"]: stage["state"] for stage in facts["stages"]}


@pytest.mark.parametrize("mode", [pytest.param("requeue", marks=pytest.mark.soak), "chain"])
def test_stages_run_once_after_two_preemptions(submitted, in_slurm, hpc_yolo, events_of, mode):
    run, job_id = submitted(mode, THEN, TRAIN, requeue=mode)
    assert [one.stage for one in stage_submissions(run)] == ["shell-2", "shell-3", "shell-4"]
    preempt_twice(in_slurm, run)
    assert set(states(run, hpc_yolo).values()) == {"waiting"}
    wait_for_all_jobs(in_slurm)
    causes = [event.cause for event in events_of(mode, AttemptEnded)]
    log = "".join(path.read_text() for path in (*run.jobs.glob("*.log"), *run.stages.glob("*.log")))
    assert causes == [Cause.PREEMPTED, Cause.PREEMPTED, Cause.FINISHED], log
    last_job = job_id if mode == "requeue" else all_submissions(run)[2].job_id
    jobs = {one.stage: one.job_id for one in stage_submissions(run)}
    expected = [("shell", last_job), *((name, jobs[name]) for name in ("shell-2", "shell-3"))]
    assert notes(run) == [[name, "finished", job] for name, job in expected], log
    assert len(jobs) == len(stage_submissions(run)) == 3, "no stage had to be queued again"
    assert in_slurm.job_state(jobs["shell-4"]) == "CANCELLED", "it does not wait for a node only to leave"
    assert states(run, hpc_yolo) == {
        **dict.fromkeys(("shell", "shell-2", "shell-3"), "done"),
        **dict.fromkeys(("shell-4", "shell-5"), "skipped"),
    }
    if mode == "requeue":
        again = hpc_yolo("submit", run.path.parents[1] / f"{mode}.yaml", check=False)
        assert "finished, and so are its stages" in again.stderr
        assert notes(run) == [[name, "finished", job] for name, job in expected]


ONCE = "if mkdir $RUN/begun-$STAGE 2>/dev/null; then {}; fi\n"


def test_killed_stages_run_again_alone(submitted, in_slurm, hpc_yolo, events_of):
    """One is cancelled, the process of another is killed, Slurm interrupts the third."""
    then = [
        {"shell": ONCE.format("sleep 600") + NOTE, "in": "job_of_its_own"},
        {"shell": ONCE.format("sleep 600") + NOTE, "in": "job_of_its_own"},
        {"shell": ONCE.format("exit 5") + NOTE, "in": "job"},
        {"shell": ONCE.format("sleep 600") + NOTE, "in": "job_of_its_own", "when": "always"},
    ]
    run, job_id = submitted("killed", then, {}, partition="gpu")
    jobs = {one.stage: one.job_id for one in stage_submissions(run)}

    def begun(name: str) -> None:
        wait_until((run.path / f"begun-{name}").exists, f"{name} to begin")

    begun("shell")
    in_slurm.run("scancel", jobs["shell"])
    begun("shell-2")
    (record,) = (record for record in read_stages(run) if record.stage == "shell-2")
    for child in Path(f"/proc/{record.pid}/task/{record.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    begun("shell-4")
    in_slurm.run("scontrol", "requeue", jobs["shell-4"])
    wait_for_all_jobs(in_slurm)
    assert in_slurm.job_state(job_id) == "COMPLETED", "a failed stage is no failure of the run"
    assert notes(run) == [["shell-4", "finished", jobs["shell-4"]]], "queued again by Slurm"
    assert states(run, hpc_yolo) == {"shell": "lost", "shell-2": "failed", "shell-3": "failed", "shell-4": "done"}
    shown = hpc_yolo("status", "--root", run.path.parent).stdout
    assert f"stage shell lost: job {jobs['shell']} ended before it: CANCELLED" in shown
    assert "stage shell-2 failed: killed by SIGKILL" in shown
    hpc_yolo("submit", run.path.parents[1] / "killed.yaml")
    wait_for_all_jobs(in_slurm)
    assert sorted(name for name, *_ in notes(run)) == ["shell", "shell-2", "shell-3", "shell-4"]
    assert set(states(run, hpc_yolo).values()) == {"done"}
    assert len(events_of("killed", AttemptEnded)) == 1, "the training was not submitted again"


@pytest.mark.soak
def test_stage_that_starts_too_early_queues_again_and_is_cancelled_with_the_run(
    submitted, in_slurm, hpc_yolo, tmp_path
):
    then = [{"shell": NOTE, "in": "job_of_its_own", "when": "always"}]
    run, job_id = submitted("early", then, {"epochs": 4000, "val_every": 0}, partition="gpu")
    (early,) = stage_submissions(run)
    wait_until(functools.partial(has_come_to, run, 1, 1), "the first step")
    in_slurm.run("scontrol", "update", f"JobId={early.job_id}", "Dependency=")
    assert in_slurm.wait_for_state(early.job_id, {"COMPLETED", "FAILED"}) == "COMPLETED"
    _, again = stage_submissions(run)
    assert (
        f"the run goes on, so it is queued again, as job {again.job_id}"
        in run.stage_log("shell", early.job_id).read_text()
    )
    assert in_slurm.job_state(again.job_id) == "PENDING"
    refused = hpc_yolo("submit", tmp_path / "early.yaml", check=False)
    assert "already queued or running" in refused.stderr
    done = hpc_yolo("cancel", "--yes", run.path)
    assert f"Slurm job {job_id}, Slurm job {again.job_id}" in done.stdout
    wait_for_all_jobs(in_slurm)
    assert notes(run) == [] and read_stages(run) == []
    assert states(run, hpc_yolo) == {"shell": "waiting"}, "it follows when the run has been submitted again"


def test_refused_stage_queues_nothing(in_slurm, write_spec, hpc_yolo, tmp_path):
    then = [{"shell": "true", "in": "job_of_its_own", "cluster": {"cpus_per_task": 999}}]
    spec = write_spec("refused", then=then)
    for options in ([], ["--dry-run"]):
        done = hpc_yolo("submit", spec, *options, check=False)
        assert done.returncode == 4
        assert "Slurm refuses the job of stage shell: sbatch: " in done.stderr and "Traceback" not in done.stderr
    assert not in_slurm.run("squeue", "--noheader").strip()
    assert not (tmp_path / "runs" / "refused").exists()


def test_stages_of_a_failed_run_that_sbatch_alone_has_queued(in_slurm, write_spec, hpc_yolo, events_of, tmp_path):
    """Its setup fails, once: stages in the job cannot run, and those with a job of their own are queued at its end."""
    mark = tmp_path / "mark"
    then = [
        {"shell": NOTE, "in": "job", "when": "failure"},
        {"shell": NOTE, "in": "job_of_its_own", "when": "failure"},
        {"shell": NOTE, "in": "job_of_its_own", "when": "success"},
    ]
    spec = write_spec("rendered", cluster={"setup": f"[ -e {mark} ] || {{ touch {mark}; false; }}"}, then=then)
    script = tmp_path / "job.sbatch"
    script.write_text(hpc_yolo("render", spec).stdout)
    job_id = in_slurm.run("sbatch", "--parsable", str(script)).strip()
    assert in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"}) == "FAILED"
    wait_for_all_jobs(in_slurm)
    run = RunDirectory(tmp_path / "runs" / "rendered")
    (stage,) = stage_submissions(run)
    assert [event.cause for event in events_of("rendered", AttemptEnded)] == [Cause.ERROR]
    assert notes(run) == [["shell-2", "error", stage.job_id]]
    assert states(run, hpc_yolo) == {"shell": "not run", "shell-2": "done", "shell-3": "skipped"}
    assert "stage shell not run: cluster.setup failed" in hpc_yolo("status", "--root", run.path.parent).stdout
