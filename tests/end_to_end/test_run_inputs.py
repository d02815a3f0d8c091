"""A requeued job uses the inputs of its submission; a new submission reports changed inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from spec_runs import ROOT
from waiting import PATIENCE_S

from hpc_yolo.core.errors import RunError

# A step of one task, as srun starts it, without Slurm.
STEP = {
    **{"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    **{"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu01"},
}
AGAIN = STEP | {"SLURM_RESTART_COUNT": "1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """Return the directory of a spec with its files, and of its run, trained once."""
    directory = tmp_path_factory.mktemp("home")
    (directory / "hyp.yaml").write_text("lr0: 0.01\n")
    (directory / "data.yaml").write_text(f"path: {shapes.parent}\n{shapes.read_text()}")
    spec = {
        "name": "run",
        "model": "yolov5n",
        "data": "data.yaml",
        "output": str(directory / "runs"),
        "cluster": {"gpus_per_node": 0},
        "train": {"epochs": 1, "batch": 20, "imgsz": 64, "workers": 0, "hyp": "hyp.yaml"},
    }
    (directory / "spec.yaml").write_text(yaml.safe_dump(spec))
    done = run_command(directory, STEP, "train", "spec.yaml")
    assert done.returncode == 0, done.stderr
    return directory


def run_command(directory: Path, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | variables | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "hpc_yolo", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_requeued_job_uses_submitted_inputs_and_new_job_reports_changes(home: Path) -> None:
    """Meanwhile the user edits the files for the next run: invalid hyperparameters and dataset YAML, another batch."""
    before = {name: (home / name).read_text() for name in ("hyp.yaml", "data.yaml", "spec.yaml")}
    try:
        (home / "hyp.yaml").write_text("lr0: [")
        (home / "data.yaml").write_text("names: [")
        (home / "spec.yaml").write_text(before["spec.yaml"].replace("batch: 20", "batch: 10"))
        again = run_command(home, AGAIN, "train", "spec.yaml")
        assert again.returncode == 0, again.stderr
        # The last line of the script, after a task was killed, finds the run in spite of the invalid files.
        last_line = run_command(home, AGAIN | {"SLURM_STEP_ID": "-5"}, "after-job", "spec.yaml", "--exit-code", "137")
        assert last_line.returncode == 0, last_line.stderr + last_line.stdout  # this run is finished
        for name, text in (before | {"hyp.yaml": "lr0: 0.5\n"}).items():
            (home / name).write_text(text)
        refused = run_command(home, STEP | {"SLURM_JOB_ID": "78"}, "train", "spec.yaml")
        assert refused.returncode == RunError.exit_code, refused.stderr
        assert "hyperparameter lr0 in " in refused.stderr and "0.01 -> 0.5" in refused.stderr
    finally:
        for name, text in before.items():
            (home / name).write_text(text)


def test_val_of_run_uses_class_names_of_run(home: Path) -> None:
    before = (home / "data.yaml").read_text()
    try:
        (home / "data.yaml").write_text(before.replace("circle", "ball"))
        done = run_command(home, {}, "val", "runs/run", "--device", "cpu", "--imgsz", "64", "--workers", "0", "--json")
        assert done.returncode == 0, done.stderr
        assert "circle" in done.stdout and "ball" not in done.stdout + done.stderr
    finally:
        (home / "data.yaml").write_text(before)
