"""Sweeps: an array of Slurm jobs whose trials are interrupted, and the same trials in processes of this machine."""

import functools
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from loopback_servers import WebServer, serving
from spec_runs import SLOW_MODEL
from tensor_digest import digest
from waiting import wait_until

from hpc_yolo.cli.submit_sweep import wait_for_trials
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.launch.sweep import plan_sweep, prepare_sweep
from hpc_yolo.launch.trial import trial_spec
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, StepLogged
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.load import dump_spec, load_spec

CLUSTER = {"partition": "preempt", "tasks_per_node": 1}
TRAIN = {"epochs": 12, "val_every": 12, "hyp_overrides": {"warmup_epochs": 0}}
CHECKPOINT = {"every_steps": 10, "every_s": None}


def sweep_at(tmp_path, name):
    return SweepDirectory(tmp_path / "runs" / name)


def starts_of(run):
    return [event for event in read_events(run.journal) if isinstance(event, AttemptStarted)]


def is_in_training(run):
    """Return True once the newest attempt of `run` has logged a step."""
    newest = Attempts(read_events(run.journal)).newest
    steps = [event for event in read_events(run.journal) if isinstance(event, StepLogged)]
    return newest is not None and newest.ended is None and bool(steps) and steps[-1].attempt == newest.number


def messages_of(name, server):
    """Return the facts of the messages about the run or sweep `name`."""
    return [facts for _, facts in server.posts if facts["name"] == name]


def digest_alone(sweep, trial, hpc_yolo, tmp_path):
    """Train the spec of `trial` by itself on this machine; return the digest of what it has learned."""
    spec = tmp_path / f"alone-{trial.name}.yaml"
    spec.write_text(dump_spec(trial_spec(sweep, sweep.trial(trial.name))))
    hpc_yolo("submit", spec, "--local", "--wait", "--set", f"output={tmp_path / 'alone'}")
    return digest(RunDirectory(tmp_path / "alone" / trial.name))


def run_interrupted_sweep(cluster, write_spec, hpc_yolo, tmp_path, num_compared, notify=None, **values):
    """Submit a sweep, preempt its first trial and kill a rank of the second; check that all end as if alone."""
    top = {"checkpoint": CHECKPOINT, "notify": notify, "model": SLOW_MODEL}
    hpc_yolo("submit", write_spec("lr", CLUSTER, TRAIN, sweep=values | {"limit": 3}, **top))
    sweep = sweep_at(tmp_path, "lr")
    trials = [sweep.trial(trial.name) for trial in sweep.trials()]
    (array,) = sweep.arrays()
    array_id = json.loads(array.submissions.read_text())["job_id"]
    wait_until(lambda: is_in_training(trials[0]), "a step of trial 0")
    cluster.run("scontrol", "requeue", f"{array_id}_0")
    wait_until(lambda: is_in_training(trials[1]), "a step of trial 1")
    os.kill(starts_of(trials[1])[-1].ranks[0].pid, signal.SIGKILL)
    while (states := json.loads(hpc_yolo("sweep", "status", sweep.path, "--json").stdout)["states"]) != {
        "done": len(trials)
    }:
        assert not {"failed", "lost", "stopped", "cancelled"} & states.keys(), states
        time.sleep(3)  # the command takes a core from the trials for a second
    assert [len(starts_of(run)) for run in trials] == [2, 2, *[1] * (len(trials) - 2)]
    for trial in sweep.trials()[:num_compared]:
        assert digest(sweep.trial(trial.name)) == digest_alone(sweep, trial, hpc_yolo, tmp_path), trial
    return sweep


def test_interrupted_trials_of_an_array_end_as_if_alone(in_slurm, write_spec, hpc_yolo, tmp_path):
    server = WebServer()
    with serving(server):
        notify = {"webhook": f"{server.address}/hook"}
        sweep = run_interrupted_sweep(in_slurm, write_spec, hpc_yolo, tmp_path, num_compared=1, notify=notify, seeds=2)
        wait_until(lambda: messages_of("lr", server), "the message about the sweep")
    (message,) = messages_of("lr", server)
    assert (message["event"], message["trials"], message["trials_failed"]) == ("finished", 2, 0)
    rows = json.loads(hpc_yolo("sweep", "table", sweep.path, "--json").stdout)
    assert {row["state"] for row in rows} == {"done"}
    spec = tmp_path / "lr.yaml"
    again = hpc_yolo("submit", spec)
    assert "2 finished" in again.stdout and "nothing to start" in again.stdout
    grown = tmp_path / "grown.yaml"
    grown.write_text(spec.read_text().replace("seeds: 2", "seeds: 4"))
    shown = hpc_yolo("submit", grown, "--dry-run").stdout
    assert "trials         4: 2 new, 2 finished" in shown and "#SBATCH --array=0-1%3" in shown
    best = tmp_path / "best.yaml"
    hpc_yolo("sweep", "best", sweep.path, "--spec", best)
    assert best.read_text().startswith(f"# Trial {rows[0]['name']} of {sweep.path}: seed=")


@pytest.mark.soak
def test_twelve_interrupted_trials_end_as_if_alone(in_slurm, write_spec, hpc_yolo, tmp_path):
    grid = {"train.hyp_overrides.lr0": [0.005, 0.01, 0.02, 0.03, 0.04, 0.05]}
    run_interrupted_sweep(in_slurm, write_spec, hpc_yolo, tmp_path, num_compared=12, grid=grid, seeds=2)


@pytest.mark.soak
def test_preempted_trials_in_chain_mode_go_on_in_jobs_of_their_own(in_slurm, write_spec, hpc_yolo, tmp_path):
    """A successor is in no array with the other trials: it must know its own, and that of a finished trial must go."""
    spec = write_spec(
        "chain", CLUSTER | {"requeue": "chain"}, TRAIN, checkpoint=CHECKPOINT, sweep={"seeds": 2}, model=SLOW_MODEL
    )
    hpc_yolo("submit", spec)
    sweep = sweep_at(tmp_path, "chain")
    trials = [sweep.trial(trial.name) for trial in sweep.trials()]
    for run in trials:
        wait_until(functools.partial(is_in_training, run), f"a step of {run.name}")
    in_slurm.submit("#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive")
    wait_until(lambda: not in_slurm.run("squeue", "--noheader", "--format=%A").split(), "all jobs to end")
    for run in trials:
        jobs = [start.job_id for start in starts_of(run)]
        assert len({job.partition("_")[0] for job in jobs}) == len(jobs) == 2, jobs
        assert Attempts(read_events(run.journal)).newest.ended.outcome == AttemptEnded.FINISHED
    assert json.loads(hpc_yolo("sweep", "status", sweep.path, "--json").stdout)["states"] == {"done": 2}
    first = sweep.trials()[0]
    assert digest(sweep.trial(first.name)) == digest_alone(sweep, first, hpc_yolo, tmp_path)


def test_cancelled_sweep_starts_its_unfinished_trials_again(in_slurm, write_spec, hpc_yolo, tmp_path):
    train = TRAIN | {"epochs": 3000, "val_every": 3000}
    spec = write_spec("many", CLUSTER, train, sweep={"seeds": 3, "limit": 1})
    hpc_yolo("submit", spec)
    sweep = sweep_at(tmp_path, "many")
    run = sweep.trial("1-0000")
    wait_until(lambda: run.journal.exists() and is_in_training(run), "the first trial")
    assert "3 active" in hpc_yolo("submit", spec).stdout
    hpc_yolo("sweep", "cancel", sweep.path, "--yes")
    wait_until(lambda: "active" not in hpc_yolo("submit", spec, "--dry-run").stdout, "the end of all trials")
    shown = hpc_yolo("submit", spec, "--dry-run").stdout
    assert "3 to start again" in shown and "#SBATCH --array=0-2%1" in shown
    refused = hpc_yolo("sweep", "cancel", sweep.path, "--yes", check=False)
    assert refused.returncode != 0 and "no trial waits or runs" in refused.stderr


def test_refused_array_leaves_nothing(in_slurm, write_spec, hpc_yolo, tmp_path):
    spec = write_spec("refused", CLUSTER | {"sbatch": {"licenses": "none_such:1"}}, sweep={"seeds": 2})
    refused = hpc_yolo("submit", spec, check=False)
    assert refused.returncode != 0 and "Slurm refuses the job" in refused.stderr
    sweep = sweep_at(tmp_path, "refused")
    assert not sweep.exists and not sweep.trial("1-0000").path.exists()
    assert "2 new" in hpc_yolo("submit", write_spec("refused", CLUSTER, sweep={"seeds": 2}), "--dry-run").stdout


def test_local_sweep_runs_several_trials_at_once(write_spec, hpc_yolo, tmp_path):
    sweep_section = {"grid": {"train.hyp_overrides.lr0": [0.01, 0.02]}}
    spec = write_spec("here", {"executor": "local"}, {"epochs": 1}, sweep=sweep_section)
    done = hpc_yolo("submit", spec, "--parallel", "2")
    assert done.stdout.count("finished") == 2
    rows = json.loads(hpc_yolo("sweep", "table", tmp_path / "runs" / "here", "--json").stdout)
    assert [(row["values"], row["state"]) for row in sorted(rows, key=lambda row: row["name"])] == [
        ({"train.hyp_overrides.lr0": value}, "done") for value in (0.01, 0.02)
    ]
    shown = json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)
    assert [(row["name"], row["state"], row["num_trials"]) for row in shown[:1]] == [("here", "done", 2)]
    assert {row["name"] for row in shown[1:]} == {"1-0000", "1-0001"}
    table = hpc_yolo("status").stdout  # from the index
    assert "here: done: 2 trials: 2 done" in table and "1-0000 " not in table
    hpc_yolo("report", tmp_path / "runs" / "here")
    assert "1-0001" in (tmp_path / "runs" / "here" / "report.html").read_text()
    assert hpc_yolo("track", tmp_path / "runs" / "here", "--to", "csv").stdout.count("new rows, up to step") == 2
    cancelled = hpc_yolo("cancel", tmp_path / "runs" / "here", "--yes", check=False)
    assert "is a sweep, of several runs" in cancelled.stderr
    best = ("submit", "best-of", tmp_path / "runs" / "here", "--set", "train.epochs=2")
    shown = hpc_yolo(*best, "--dry-run", cwd=tmp_path).stdout
    assert f"run directory  {tmp_path / 'runs' / 'here-best'} (new)" in shown
    assert not (tmp_path / "here-best.yaml").exists()
    (tmp_path / "here-best.yaml").touch()
    refused = hpc_yolo(*best, cwd=tmp_path, check=False)
    assert refused.returncode == 6 and "here-best.yaml exists" in refused.stderr


def test_no_trial_starts_once_the_budget_is_spent(in_slurm, write_spec, hpc_yolo, tmp_path):
    """One trial takes more than a second of a task; the job of the other ends at once, as completed."""
    sweep_section = {"seeds": 2, "limit": 1, "budget_gpu_hours": 1 / 3600}
    followed = hpc_yolo("submit", write_spec("small", CLUSTER, {"epochs": 1}, sweep=sweep_section), "--follow")
    assert followed.stdout.endswith("small: 1 done, 1 not started\n")
    sweep = sweep_at(tmp_path, "small")
    array_id = json.loads(sweep.array(1).submissions.read_text())["job_id"]
    for task in (0, 1):
        assert in_slurm.wait_for_state(f"{array_id}_{task}", {"COMPLETED", "FAILED"}) == "COMPLETED"
    states = {trial.name: sweep.trial(trial.name).exists for trial in sweep.trials()}
    assert states == {"1-0000": True, "1-0001": False}
    (log,) = sweep.trial("1-0001").jobs.glob("*.log")
    assert "trial 1-0001 does not start: the trials have taken" in log.read_text()
    more = write_spec("small", CLUSTER, {"epochs": 1}, sweep=sweep_section | {"budget_gpu_hours": 1})
    assert "1 to start again, 1 finished" in hpc_yolo("submit", more, "--dry-run").stdout


def test_trials_that_did_not_start_are_a_failure_of_the_sweep(write_spec):
    """Such as those whose dataset was removed while they waited."""
    plan = plan_sweep(load_spec(write_spec("unable", {"executor": "local"}, sweep={"seeds": 2})))
    prepare_sweep(plan)
    lines = []
    assert wait_for_trials(plan.sweep, lines.append) == TrainingError.exit_code
    assert lines == [
        "unable: 2 not started",
        f"2 trials did not start; the output of a trial is in {plan.sweep.path}/TRIAL/jobs",
    ]


def test_directory_of_another_sweep_or_run_is_refused(write_spec, hpc_yolo, tmp_path):
    spec = write_spec("taken", {"executor": "local"}, {"epochs": 1}, sweep={"seeds": 2})
    taken = tmp_path / "runs" / "taken"
    Path(taken, "notes").mkdir(parents=True)
    refused = hpc_yolo("submit", spec, "--dry-run", check=False)
    assert refused.returncode == 6 and "exists, and is no sweep" in refused.stderr


def test_thousand_trials_take_three_calls_of_slurm(in_slurm, write_spec, hpc_yolo, tmp_path, monkeypatch):
    """A controller that serves a whole site must not notice how large a sweep is."""
    calls = tmp_path / "calls"
    for command in ("sbatch", "scontrol", "squeue", "sinfo", "sacct", "sacctmgr"):
        counted = tmp_path / "bin" / command
        counted.parent.mkdir(exist_ok=True)
        counted.write_text(f'#!/bin/sh\necho {command} >>{calls}\nexec {shutil.which(command)} "$@"\n')
        counted.chmod(0o755)
    grid = {"train.hyp_overrides.lr0": [0.01 + number / 1000 for number in range(10)]}
    sweep_section = {"grid": grid, "seeds": 100, "limit": 8}
    spec = write_spec("big", CLUSTER | {"sbatch": {"hold": True}}, sweep=sweep_section)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    hpc_yolo("submit", spec)
    assert sorted(calls.read_text().split()) == ["sbatch", "scontrol", "scontrol"]
    calls.unlink()
    shown = json.loads(hpc_yolo("sweep", "status", sweep_at(tmp_path, "big").path, "--json").stdout)
    assert shown["states"] == {"waiting": 1000}
    assert calls.read_text().split() == ["squeue"]
