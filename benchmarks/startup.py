"""Measure the start-up of commands on a login node, as multiples of `import rich, yaml` in the same run.

python benchmarks/startup.py          # prints a table; recorded values: benchmarks/README.md
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 15
LIMIT = 4.0
PROFILE = "submit --dry-run, site"
PROFILE_LIMIT = 1.2 * LIMIT
WITH_PROFILE = ["--set", "cluster.executor=slurm", "--set", "site=jeanzay", "--set", "cluster.gpu=h100"]
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run all commands in turns, so that other load on the machine affects each alike."""
    command = str(Path(sys.executable).parent / "hpc-yolo")
    with tempfile.TemporaryDirectory() as directory:
        data = write_empty_dataset(Path(directory))
        dry_run = [
            "submit",
            str(ROOT / "configs" / "quickstart.yaml"),
            "--dry-run",
            "--set",
            f"data={data}",
            "--set",
            f"output={directory}",
        ]
        commands = {
            "import rich, yaml": [sys.executable, "-c", "import rich, yaml"],
            "--help": [command, "--help"],
            "submit --dry-run": [command, *dry_run],
            PROFILE: [command, *dry_run, *WITH_PROFILE],
            "submit --dry-run --local": [command, *dry_run, "--local"],
            "status": [command, "status", "--root", directory],
        }
        environ = {**os.environ, "XDG_STATE_HOME": directory}  # no runs of the user, to estimate from
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, argv in commands.items():
                started = time.perf_counter()
                subprocess.run(argv, cwd=directory, env=environ, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - started)
    unit_s = statistics.median(seconds["import rich, yaml"])
    print(f"{'command':26} {'median ms':>9} {'times':>6} {'limit':>6}")
    for name, measured in seconds.items():
        limit = PROFILE_LIMIT if name == PROFILE else LIMIT
        times = statistics.median(measured) / unit_s
        print(f"{name:26} {statistics.median(measured) * 1e3:9.0f} {times:6.2f} {limit:6.2f}")


def write_empty_dataset(directory: Path) -> Path:
    """Return a dataset YAML whose splits exist and are empty."""
    for split in ("train", "val"):
        (directory / split).mkdir()
    path = directory / "dataset.yaml"
    path.write_text("train: train\nval: val\nnames: [thing]\n")
    return path


if __name__ == "__main__":
    main()
