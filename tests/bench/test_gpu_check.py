"""The check of a GPU runs here at toy sizes, so that it does not fail at first sight of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


@pytest.mark.soak
def test_all_parts_run_on_a_cpu(tmp_path):
    command = [sys.executable, str(SCRIPT), "--dry", "--result", str(tmp_path / "result.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "result.json").read_text())
    assert (results["failed"], results["left_out"]) == ({}, [])
    assert len(results["seconds"]) == 11
    assert all(row["different_share"] == 0 for row in results["drawn_images"])
