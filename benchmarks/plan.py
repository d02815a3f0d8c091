"""Compare `hpc-yolo plan` with a real run of the quickstart on the test cluster, in two attempts.

    python benchmarks/plan.py [--learn 8] [--epochs 60]    # as root, without other load; 8 minutes

A first run of a few epochs is measured. The plan for a longer run follows from it, with a time limit that forces two
attempts; then that run is trained. Printed are planned and real wall time (limit 15 %), and attempts (must be equal).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import msgspec  # noqa: E402
from slurm_cluster import SlurmCluster  # noqa: E402

from hpc_yolo.forecast.estimate import SIGNAL_EARLY_S, Limit, Work, attempt_times  # noqa: E402
from hpc_yolo.forecast.rates import Rates  # noqa: E402
from hpc_yolo.forecast.run_times import run_times  # noqa: E402
from hpc_yolo.runs.directory import RunDirectory  # noqa: E402
from hpc_yolo.runs.events import AttemptEnded  # noqa: E402
from hpc_yolo.runs.journal import read_events  # noqa: E402
from hpc_yolo.runs.time_ledger import make_ledger  # noqa: E402

POLL_S = 2.0
TIMEOUT_S = 3600.0


def main() -> None:
    """Measure, plan, train and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--learn", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="hpc-yolo-plan-"))
    cluster = SlurmCluster()
    cluster.start()
    os.environ |= {**cluster.environment, "XDG_STATE_HOME": str(directory / "state")}
    try:
        hpc_yolo(directory, "data", "synth", "datasets/shapes")
        train(directory, "first", options.learn)
        whole = plan(directory, options.epochs)
        minutes = minutes_for_two(whole)
        planned = plan(directory, options.epochs, f"--time=00:{minutes:02d}:00")
        run = train(directory, "second", options.epochs, f"--time=00:{minutes:02d}:00")
        events = read_events(run.journal)
        ledger, times = make_ledger(events), run_times(events)
        real_s = sum(attempt.end - attempt.begin for attempt in ledger.attempts)
        assert times is not None
        print(f"time limit {minutes} min; planned {planned['wall_s']} and {planned['attempts']}")
        print(f"real {real_s:.1f} s in {[round(one.end - one.begin, 1) for one in ledger.attempts]}")
        print(f"planned over real: {planned['wall_s']['expected'] / real_s:.3f}")
        print(f"rates: planned {planned['rates']}; step measured in the second run {times.step_s:.4f} s")
    finally:
        cluster.stop()


def minutes_for_two(forecast: dict[str, Any]) -> int:
    """Return the time limit with which the run of `forecast` takes two attempts, however early the signal comes."""
    work, rates = msgspec.convert(forecast["work"], Work), msgspec.convert(forecast["rates"], Rates)
    for minutes in range(2, 60):
        limit = Limit(60 * minutes, min(forecast["signal_before_s"], 30 * minutes))
        times = [attempt_times(work, rates, limit.usable_s(early_s)) for early_s in (SIGNAL_EARLY_S[0], 30.0)]
        if all(one is not None and len(one) == 2 for one in times):
            return minutes
    raise ValueError("no limit of whole minutes means two attempts: more --epochs")


def plan(directory: Path, epochs: int, *options: str) -> dict[str, Any]:
    """Return the forecast of the second run."""
    spec = str(ROOT / "configs" / "quickstart.yaml")
    text = hpc_yolo(directory, "plan", spec, "--name=second", f"--epochs={epochs}", "--no-queue", "--json", *options)
    found: dict[str, Any] = json.loads(text)["forecast"]
    return found


def train(directory: Path, name: str, epochs: int, *options: str) -> RunDirectory:
    """Submit the quickstart and wait until it has finished; return its run."""
    spec = str(ROOT / "configs" / "quickstart.yaml")
    hpc_yolo(directory, "submit", spec, f"--name={name}", f"--set=train.epochs={epochs}", *options)
    run = RunDirectory(directory / "runs" / name)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        ends = [event for event in read_events(run.journal) if isinstance(event, AttemptEnded)]
        if ends and not ends[-1].requeued:
            assert ends[-1].outcome == AttemptEnded.FINISHED, ends
            return run
        time.sleep(POLL_S)
    raise TimeoutError(f"{run.path} has not finished")


def hpc_yolo(directory: Path, *arguments: str) -> str:
    """Run the command line in `directory`; return its output."""
    command = [sys.executable, "-m", "hpc_yolo", *arguments]
    return subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
