"""Benchmarks `startup` and `submit`: commands as processes, over one that imports rich and YAML alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hpc_yolo.bench.records import BenchResult
from hpc_yolo.bench.rounds import Rounds, Work, measure
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.package_data import resource_directory

REFERENCE = "import rich, yaml"
SWEEP_SEEDS, SWEEP_LRS = 100, 10
SWEEP = """
sweep:
  seeds: {seeds}
  grid:
    train.hyp_overrides.lr0: [{lrs}]
"""


def bench_startup(rounds: Rounds) -> list[BenchResult]:
    """Return CPU times of `--help` and `status`, and of the imports of a task."""
    with tempfile.TemporaryDirectory() as directory:
        commands = {
            "--help": ["-m", "hpc_yolo", "--help"],
            "status": ["-m", "hpc_yolo", "status", "--root", directory],
            "imports of a task": ["-c", "import hpc_yolo.training.attempt"],
        }
        return [_measure("startup", commands, Path(directory), rounds)]


def bench_submit(rounds: Rounds) -> list[BenchResult]:
    """Return CPU times of `submit --dry-run`: of a Slurm job, with a site profile, locally, of a sweep."""
    with tempfile.TemporaryDirectory() as written:
        directory = Path(written)
        data, quickstart = write_empty_dataset(directory), resource_directory("configs") / "quickstart.yaml"
        options = ["--dry-run", "--set", f"data={data}", "--set", f"output={directory}"]
        submit = ["-m", "hpc_yolo", "submit", str(quickstart), *options]
        sweep = directory / "sweep.yaml"
        lrs = ", ".join(f"{0.001 * number:.3f}" for number in range(1, SWEEP_LRS + 1))
        sweep.write_text(quickstart.read_text() + SWEEP.format(seeds=SWEEP_SEEDS, lrs=lrs))
        slurm = ["--set", "cluster.executor=slurm"]
        commands = {
            "dry run": [*submit, *slurm],
            "dry run, site profile": [*submit, *slurm, "--set", "site=jeanzay", "--set", "cluster.gpu=h100"],
            "dry run, local": [*submit, "--local"],
            "dry run, sweep of 1,000": ["-m", "hpc_yolo", "submit", str(sweep), *options, "--local"],
        }
        return [_measure("submit", commands, directory, rounds)]


def _measure(bench: str, commands: Mapping[str, list[str]], directory: Path, rounds: Rounds) -> BenchResult:
    environ = {**current_environment(), "XDG_STATE_HOME": str(directory)}  # no runs of the user, to estimate from

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], cwd=directory, env=environ, check=True, capture_output=True)

    works = [Work(name, partial(run, arguments)) for name, arguments in commands.items()]
    return measure(bench, works, Work(REFERENCE, partial(run, ["-c", REFERENCE])), rounds)


def write_empty_dataset(directory: Path) -> Path:
    """Return a dataset YAML whose splits exist and are empty."""
    for split in ("train", "val"):
        (directory / split).mkdir()
    path = directory / "dataset.yaml"
    path.write_text("train: train\nval: val\nnames: [thing]\n")
    return path
