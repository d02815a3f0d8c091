"""A job that Slurm has queued again goes on as it was submitted; who submits again is told what has changed."""

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

# A step of one task, as srun starts it; no Slurm answers here.
STEP = {
    **{"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    **{"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu01"},
}
AGAIN = STEP | {"SLURM_RESTART_COUNT": "1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A spec with files of a person's own, and its run, trained once by a job of a template."""
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
    done = type_in(directory, STEP, "train", "spec.yaml")
    assert done.returncode == 0, done.stderr
    return directory


def type_in(directory: Path, variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | variables | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "hpc_yolo", *words]
    return subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_a_job_queued_again_goes_on_as_it_was_submitted_and_a_new_one_reports_what_changed(home: Path) -> None:
    """Its owner prepares the next run: hyperparameters and dataset YAML are half written, the batch is another."""
    before = {name: (home / name).read_text() for name in ("hyp.yaml", "data.yaml", "spec.yaml")}
    try:
        (home / "hyp.yaml").write_text("lr0: [")
        (home / "data.yaml").write_text("names: [")
        (home / "spec.yaml").write_text(before["spec.yaml"].replace("batch: 20", "batch: 10"))
        again = type_in(home, AGAIN, "train", "spec.yaml")
        assert again.returncode == 0, again.stderr
        # The script's last line, after a task that was killed: it finds the run, whatever is in the files.
        last_line = type_in(home, AGAIN | {"SLURM_STEP_ID": "-5"}, "after-job", "spec.yaml", "--exit-code", "137")
        assert last_line.returncode == 0, last_line.stderr + last_line.stdout  # this run is finished
        for name, text in (before | {"hyp.yaml": "lr0: 0.5\n"}).items():
            (home / name).write_text(text)
        refused = type_in(home, STEP | {"SLURM_JOB_ID": "78"}, "train", "spec.yaml")
        assert refused.returncode == RunError.exit_code, refused.stderr
        assert "hyperparameter lr0 in " in refused.stderr and "0.01 -> 0.5" in refused.stderr
    finally:
        for name, text in before.items():
            (home / name).write_text(text)


def test_val_reads_the_names_that_the_run_learned(home: Path) -> None:
    before = (home / "data.yaml").read_text()
    try:
        (home / "data.yaml").write_text(before.replace("circle", "ball"))
        done = type_in(home, {}, "val", "runs/run", "--device", "cpu", "--imgsz", "64", "--workers", "0", "--json")
        assert done.returncode == 0, done.stderr
        assert "circle" in done.stdout and "ball" not in done.stdout + done.stderr
    finally:
        (home / "data.yaml").write_text(before)
