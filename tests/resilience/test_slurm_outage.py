"""Slurm's daemons go away for a while: training does not notice, and commands say what they know."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator

import pytest
from waiting import wait_until

from hpc_yolo.runs.events import AttemptStarted, StepLogged

AWAY_S = float(os.environ.get("AWAY_S", "120"))
DAEMONS = ("slurmctld", "slurmdbd", "mariadbd", "munged")


@contextlib.contextmanager
def patient_controller(in_slurm) -> Iterator[None]:
    """Slurm's own default, instead of the tests' 30 s: without munge the controller does not hear its nodes either."""
    config = in_slurm.directory / "slurm.conf"
    before = config.read_text()
    config.write_text(before.replace("SlurmdTimeout=30", "SlurmdTimeout=300"))
    in_slurm.run("scontrol", "reconfigure")
    try:
        yield
    finally:
        config.write_text(before)
        in_slurm.run("scontrol", "reconfigure")


@pytest.mark.soak
def test_training_and_commands_work_while_a_daemon_is_down(in_slurm, write_spec, hpc_yolo, events_of, tmp_path):
    with patient_controller(in_slurm):
        spec = write_spec("patient", cluster={"time": "00:30:00"}, train={"epochs": 100_000, "val_every": 100_000})
        hpc_yolo("submit", spec)
        job_id = json.loads((tmp_path / "runs" / "patient" / "submissions.jsonl").read_text())["job_id"]
        wait_until(lambda: events_of("patient", StepLogged), "the first steps")
        for daemon in DAEMONS:
            with in_slurm.without(daemon):
                before = events_of("patient", StepLogged)[-1].step
                stopped_s = time.monotonic()
                for words in (
                    ["status", "--root", tmp_path / "runs", "--json"],
                    ["doctor", spec],
                    ["submit", spec, "--dry-run"],
                ):
                    done = hpc_yolo(*words, check=False)
                    print(f"{daemon} away: {words[0]}, exit code {done.returncode}: {done.stderr[:200]}")
                    assert "Traceback" not in done.stderr
                    if words[0] == "status":
                        assert json.loads(done.stdout)[0]["state"] == "running"
                time.sleep(max(stopped_s + AWAY_S - time.monotonic(), 0))  # the length is the test's subject
                assert events_of("patient", StepLogged)[-1].step > before, f"without {daemon}"
        assert in_slurm.job_state(job_id) == "RUNNING"
        assert len(events_of("patient", AttemptStarted)) == 1
