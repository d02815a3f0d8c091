"""How runs end or go on, on a real Slurm: memory, tasks without Slurm's commands, and what the site allows."""

from __future__ import annotations

import functools
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from slurm_daemons import installed_version
from waiting import wait_until

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause, StepLogged
from hpc_yolo.runs.submissions import all_submissions

ROOT = Path(__file__).parents[2]
PREEMPTIBLE = {"partition": "preempt"}
LONG = {"epochs": 4000, "val_every": 0, "hyp_overrides": {"warmup_epochs": 0}}
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED"}
OVER_MEMORY_KILL = {
    "SelectTypeParameters": "CR_Core_Memory",
    "DefMemPerNode": "2000",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "1",
    "JobAcctGatherParams": "OverMemoryKill",
}


def job_id_of(run: RunDirectory) -> str:
    return all_submissions(run)[0].job_id


def preempt(cluster: SlurmCluster) -> None:
    cluster.submit("#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive")


def wait_for_steps(events_of, name: str, attempt: int = 1) -> None:
    def has_steps() -> bool:
        return any(event.attempt == attempt for event in events_of(name, StepLogged))

    wait_until(has_steps, f"steps of attempt {attempt}")


def test_job_out_of_memory_ends_and_names_its_peak(slurm_with, write_spec, hpc_yolo, events_of, tmp_path):
    """It was queued again three times unchanged, and memory was never mentioned."""
    cluster = slurm_with(**OVER_MEMORY_KILL)
    spec = write_spec("greedy", cluster={"nodes": 1, "tasks_per_node": 2, "mem": "150M"})
    done = hpc_yolo("submit", spec, "--follow", check=False)
    run = RunDirectory(tmp_path / "runs" / "greedy")
    log = (run.jobs / f"{job_id_of(run)}.log").read_text()
    assert cluster.wait_for_state(job_id_of(run), OVER) == "FAILED", log
    (end,) = events_of("greedy", AttemptEnded)
    assert (end.cause, end.outcome, end.requeued) == (Cause.OUT_OF_MEMORY, AttemptEnded.FAILED, False), log
    assert "cluster.mem" in end.detail
    assert " at a peak of " in end.detail
    assert done.returncode == 8
    assert "the memory of the job ran out" in done.stderr
    (facts,) = json.loads(hpc_yolo("status", "--root", run.path.parent, "--json").stdout)
    assert (facts["state"], facts["detail"]) == ("failed", end.detail)


def test_batch_script_requeues_what_its_tasks_cannot(in_slurm, write_spec, hpc_yolo, events_of, tmp_path):
    """A container has no scontrol: the run ended at its first time limit."""
    spec = write_spec("contained", train=LONG)
    script = hpc_yolo("render", spec).stdout
    python = shlex.quote(sys.executable)
    srun = next(line for line in script.splitlines() if line.startswith("srun "))
    contained = srun.replace(f" {python} ", f" env PATH=/nowhere {python} ", 1)
    job_id = in_slurm.submit(script.replace(srun, contained))
    wait_for_steps(events_of, "contained")
    in_slurm.run("scancel", "--signal=USR2", job_id)
    wait_for_steps(events_of, "contained", attempt=2)
    ends = [event for event in events_of("contained", AttemptEnded) if event.attempt == 1]
    assert {end.cause for end in ends} == {Cause.TIME_LIMIT}
    assert "not queued again: Slurm's scontrol is not installed here" in ends[-2].detail
    assert (ends[-1].requeued, ends[-1].detail.rpartition("; ")[2]) == (True, "queued again by the batch script")


@pytest.mark.parametrize("has_accounting", [pytest.param(True, marks=pytest.mark.soak), False])
def test_template_in_chain_mode_passes_on_arguments_and_options(
    in_slurm, write_spec, events_of, tmp_path, monkeypatch, has_accounting
):
    """Since 23.02 Slurm does not keep arguments: the successor trained the default spec. Options it never kept."""
    sacct = tmp_path / "bin" / "sacct"
    sacct.parent.mkdir()
    sacct.write_text("#!/bin/sh\necho Slurm accounting storage is disabled >&2\nexit 1\n")
    sacct.chmod(0o755)
    first = "" if has_accounting else f"{sacct.parent}:"
    monkeypatch.setenv("PATH", f"{first}{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin")
    spec = write_spec("handed-on", train=LONG)
    arguments = (
        str(spec),
        "--set",
        "cluster.requeue=chain",
        "--set",
        "train.hyp_overrides={warmup_epochs: 0, lr0: 0.02}",
    )
    options = (
        "--partition=preempt",
        "--nodes=1",
        f"--output={tmp_path}/job %j.log",
        "--ntasks-per-node=1",
        "--gpus-per-node=1",
    )
    job_id = in_slurm.run("sbatch", "--parsable", *options, "slurm/train.sbatch", *arguments, cwd=str(ROOT)).strip()
    wait_for_steps(events_of, "handed-on")
    preempt(in_slurm)
    wait_for_steps(events_of, "handed-on", attempt=2)
    second = events_of("handed-on", AttemptStarted)[1]
    assert second.job_id != job_id
    shown = in_slurm.run("scontrol", "--oneliner", "show", "job", second.job_id)
    assert "Partition=preempt" in shown
    assert re.search(r"TresPerNode=gres[:/]gpu[:=]1\b", shown)
    assert f"StdOut={tmp_path}/job {second.job_id}.log" in shown
    in_slurm.run("scancel", second.job_id, *in_slurm.run("squeue", "--noheader", "--format=%A").split())


@pytest.mark.parametrize("wait_s", [pytest.param(5, marks=pytest.mark.soak), 120])
def test_preempted_run_comes_back_by_the_fastest_mode_of_the_site(
    slurm_with, write_spec, hpc_yolo, events_of, tmp_path, wait_s
):
    can_expedite = installed_version() >= (25, 11)
    settings = {"SlurmctldParameters": "enable_expedited_requeue"} if can_expedite and wait_s > 5 else {}
    cluster = slurm_with(AuthInfo=f"socket={{directory}}/munge.socket,cred_expire={wait_s}", **settings)
    mode = "requeue" if wait_s == 5 else "expedite" if can_expedite else "chain"
    spec = write_spec("soonest", cluster=PREEMPTIBLE, train=LONG)
    shown = hpc_yolo("submit", spec).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("interrupted")]
    assert line.split()[1].rstrip(",") == mode
    run = RunDirectory(tmp_path / "runs" / "soonest")
    wait_for_steps(events_of, "soonest")
    preempt(cluster)
    wait_for_steps(events_of, "soonest", attempt=2)
    first, second = events_of("soonest", AttemptStarted)
    assert (first.job_id == second.job_id) == (mode != "chain")
    (ended,) = events_of("soonest", AttemptEnded)
    assert (ended.cause, ended.requeued, ended.step) == (Cause.PREEMPTED, True, second.step)
    hpc_yolo("cancel", "--yes", run.path)
    wait_until(functools.partial(is_over, cluster), "all jobs to end")
    assert cluster.job_state(second.job_id) in ("CANCELLED", "PREEMPTED", "FAILED")


def is_over(cluster: SlurmCluster) -> bool:
    return not cluster.run("squeue", "--noheader", "--format=%A").split()
