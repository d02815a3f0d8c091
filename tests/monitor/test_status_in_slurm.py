"""The screen and a real Slurm: what it says of jobs, how seldom it is asked, and jobs ended and put back by name."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from status_runs import START, STEP, append_events, make_run
from tmux_terminal import Terminal

from hpc_yolo.cluster.scheduler import job_record
from hpc_yolo.runs.index import add_to_index, state_directory
from hpc_yolo.runs.submissions import last_chain


def queue(directory: Path, name: str, *options: str) -> str:
    script = directory / f"{name}.sbatch"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    command = ["sbatch", "--parsable", "--requeue", f"--output={directory}/%j.log", *options, str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=directory).stdout.strip()


def hpc_yolo(*arguments: object) -> str:
    command = [sys.executable, "-m", "hpc_yolo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def count_calls(directory: Path, monkeypatch) -> Path:
    """From now on every call of squeue leaves a letter in the file that is returned."""
    counted, real = directory / "calls", shutil.which("squeue")
    (directory / "bin").mkdir()
    wrapper = directory / "bin" / "squeue"
    wrapper.write_text(f'#!/bin/sh\nprintf x >> {counted}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    return counted


@pytest.mark.slurm_quick("status")
def test_screens_share_one_query_and_runs_are_cancelled_and_requeued_by_name(in_slurm, tmp_path, monkeypatch):
    root = tmp_path / "runs"
    jobs = {"waits": queue(tmp_path, "waits", "--begin=now+1hour"), "runs": queue(tmp_path, "runs")}
    for name, job_id in jobs.items():
        add_to_index(state_directory(os.environ), make_run(root, name, job_id=job_id))
    in_slurm.wait_for_state(jobs["runs"], "RUNNING")
    calls = count_calls(tmp_path, monkeypatch)
    command = [sys.executable, "-m", "hpc_yolo", "status", "--root", str(root), "--json"]
    screens = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [json.loads(screen.communicate()[0]) for screen in screens]
    assert calls.read_text() == "x"
    for facts in answers:
        assert [(run["name"], run["state"], run["detail"].partition(":")[0]) for run in facts] == [
            ("runs", "running", ""),
            ("waits", "queued", "BeginTime"),
        ]
    assert f"cancelled Slurm job {jobs['waits']}" in hpc_yolo("cancel", "waits", "--yes")
    in_slurm.wait_for_state(jobs["waits"], "CANCELLED")
    append_events(make_run(root, "runs", executor=None), START)
    assert "queued again" in hpc_yolo("requeue", "runs", "--yes")
    assert job_record(jobs["runs"]).restarts == 1


def test_job_cancelled_while_pending_is_not_a_failure(in_slurm, tmp_path):
    run = make_run(tmp_path / "runs", "waits", job_id=queue(tmp_path, "waits", "--begin=now+1hour"))
    in_slurm.run("scancel", last_chain(run)[0].job_id)
    in_slurm.wait_for_state(last_chain(run)[0].job_id, "CANCELLED")
    (facts,) = json.loads(hpc_yolo("status", "--root", run.path.parent, "--json"))
    assert (facts["state"], facts["detail"]) == ("cancelled", "before it started")
    command = [sys.executable, "-m", "hpc_yolo", "follow", str(run.path)]
    followed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (followed.returncode, followed.stderr) == (130, "")
    assert "waits was cancelled; submit the spec again to continue" in followed.stdout


@contextlib.contextmanager
def hanging(cluster) -> Iterator[None]:
    """slurmctld takes connections inside the block, and says nothing."""
    pids = subprocess.run(
        ["pgrep", "-f", f"slurmctld.*{cluster.directory}"], capture_output=True, text=True, check=True
    )
    (pid,) = [int(pid) for pid in pids.stdout.split() if Path(f"/proc/{pid}/comm").read_text().strip() == "slurmctld"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_screen_updates_while_slurm_hangs_and_shows_age_of_reply(in_slurm, tmp_path):
    job_id = queue(tmp_path, "runs")
    run = make_run(tmp_path / "runs", "first", job_id=job_id, time=time.time())
    in_slurm.wait_for_state(job_id, "RUNNING")
    append_events(run, START | {"job_id": job_id, "time": time.time()})
    terminal = Terminal(tmp_path, 120, 24)
    try:
        terminal.run(sys.executable, "-m", "hpc_yolo", "status", "--root", str(tmp_path / "runs"))
        terminal.wait_for("first ", "running", " s ago", without="as of")
        with hanging(in_slurm):
            append_events(run, STEP | {"images_per_s": 77.7, "time": time.time()})
            terminal.wait_for("77.7")  # journals do not wait for Slurm
            terminal.wait_for("Slurm as of", "running")
            terminal.type("?")
            terminal.wait_for("any key goes back")
            terminal.type("x", "q")
            terminal.wait_for("LEFT 0")
    finally:
        terminal.close()
