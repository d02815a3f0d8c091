"""What Slurm itself starts twice: by sbatch typed again, and after a node was lost whose processes live on."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from hpc_yolo.core.errors import LeaseError
from hpc_yolo.runs.directory import RunDirectory

ROOT = Path(__file__).parents[2]

# Publishes who it is as long as it may.
TASK = """
import os, sys, time
from pathlib import Path
from hpc_yolo.resilience import lease
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import LeaseError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.runs.directory import RunDirectory
run, process = RunDirectory(Path(sys.argv[1])), ProcessInfo.from_env(os.environ)
try:
    own = lease.take_lease(run, process, watch_s=1e9)
    with lease.Heartbeat(own, interval_s=0.2):
        while True:
            word = f"attempt {own.attempt}, job {process.job_id} on {process.host}"
            write_atomic(run.checkpoints / "published", word, before_publish=own.require)
            time.sleep(0.05)
except LeaseError as error:
    (run.failures / process.host).write_text(str(error))
    sys.exit(error.exit_code)
"""


@pytest.fixture
def submit(in_slurm, run, tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    command = shlex.join(["srun", sys.executable, str(tmp_path / "task.py"), str(run.path)])
    script = f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\nexec {command}\n"
    return lambda *options: in_slurm.submit(script, "--requeue", *options)


def wait_for_word(run: RunDirectory, word: str, timeout_s: float = 60.0) -> None:
    path = run.checkpoints / "published"
    wait_until(lambda: path.exists() and path.read_text() == word, f"{word} to publish", timeout_s)


def test_script_submitted_twice_trains_once(in_slurm, run, submit):
    """The second start loses against one that lives, and follows one that Slurm knows to have ended."""
    first = submit("--nodelist=gpu01")
    wait_for_word(run, f"attempt 1, job {first} on gpu01")
    second = submit("--nodelist=gpu02")
    assert in_slurm.wait_for_state(second, "FAILED") == "FAILED"
    exit_code = in_slurm.run("scontrol", "--oneliner", "show", "job", second).partition(" ExitCode=")[2].split()[0]
    assert exit_code == f"{LeaseError.exit_code}:0"
    assert f"attempt 1 of job {first} on gpu01" in (run.failures / "gpu02").read_text()
    assert in_slurm.job_state(first) == "RUNNING"
    in_slurm.run("scancel", first)
    in_slurm.wait_for_state(first, "CANCELLED")
    third = submit("--nodelist=gpu02")
    wait_for_word(run, f"attempt 2, job {third} on gpu02")
    assert not (run.failures / "gpu01").exists(), "nobody but the second was turned away"


def test_orphan_on_a_lost_node_ends_when_its_job_has_started_elsewhere(in_slurm, run, submit):
    """Slurm has no fencing: with the node's slurmd gone, the old start trains on beside the new one."""
    job = submit("--nodes=1", "--nodelist=gpu01", "--open-mode=append")
    wait_for_word(run, f"attempt 1, job {job} on gpu01")
    in_slurm.stop_daemon("gpu01", signal.SIGKILL)
    try:
        in_slurm.run("scontrol", "update", "NodeName=gpu01", "State=DOWN", "Reason=lost")
        in_slurm.run("scontrol", "update", f"JobId={job}", "ReqNodeList=")
        assert not (run.failures / "gpu01").exists(), "the orphan lives and publishes"
        wait_for_word(run, f"attempt 2, job {job} on gpu02")
        wait_until(lambda: (run.failures / "gpu01").exists(), "the orphan to leave")
        assert f"attempt 2 of job {job} on gpu02" in (run.failures / "gpu01").read_text()
        assert (run.checkpoints / "published").read_text() == f"attempt 2, job {job} on gpu02"
    finally:
        in_slurm.run("scancel", job)
        in_slurm.start_daemon("gpu01")
        in_slurm.run("scontrol", "update", "NodeName=gpu01", "State=RESUME", check=False)
        in_slurm.wait_for_nodes()


def test_lease_records_the_cluster_of_its_job(in_slurm):
    """Job 7 of one cluster says nothing of job 7 of another."""
    job = in_slurm.submit("#!/bin/sh\nsrun env\n")
    in_slurm.wait_for_state(job, "COMPLETED")
    assert "SLURM_CLUSTER_NAME=test" in in_slurm.output(job).splitlines()
