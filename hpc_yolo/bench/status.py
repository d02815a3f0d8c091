"""Benchmark `status`: reading the journals of many runs, refreshing them, and laying out a frame of the screen."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from hpc_yolo.bench.records import BenchResult
from hpc_yolo.bench.rounds import Rounds, Work, measure
from hpc_yolo.cluster.job_cache import JobCache
from hpc_yolo.monitor.snapshot import Collector
from hpc_yolo.monitor.tui.app import frame
from hpc_yolo.monitor.tui.keys import ScreenState
from hpc_yolo.runs.directory import RunDirectory, find_runs

COLUMNS, ROWS = 200, 50
EVENTS, REFRESHES, FRAMES = 200, 5, 20
PARSED = 20_000
RUN_NAME = "run-{:04}"
START: dict[str, Any] = {
    **{"event": "attempt_started", "attempt": 1, "format_version": 2, "job_id": None, "launcher": "single"},
    **{"device": "cpu", "precision": "float32", "world_size": 1, "num_nodes": 1, "batch": 16, "epochs": 100},
    **{"steps_per_epoch": 1000, "num_images": 16000, "epoch": 0, "step": 0},
    "ranks": [{"rank": 0, "local_rank": 0, "node_rank": 0, "host": "gpu0", "pid": 1}],
}
STEP: dict[str, Any] = {
    **{"event": "step", "attempt": 1, "epoch": 0, "losses": {"box": 0.1, "obj": 0.2, "cls": 0.3}},
    **{"grad_norm": 1.0, "lr": 0.01},
    **{"images_per_s": 50.0, "rank_step_s": [0.5], "rank_data_wait_s": [0.0], "rank_mem_bytes": [1]},
}


def bench_status(rounds: Rounds) -> list[BenchResult]:
    """Return CPU times over parsing of journal lines by json: of a first reading, of refreshes, and of frames."""
    num_runs = rounds.amount(200, 50)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_runs(root, num_runs, EVENTS)
        collector = _collector(root)
        snapshot = collector.refresh()
        size = (COLUMNS, ROWS)
        works = [
            Work("first reading of all journals", lambda: _collector(root).refresh(), num_runs, "run"),
            Work("refresh", lambda: [collector.refresh() for _ in range(REFRESHES)], REFRESHES * num_runs, "run"),
            Work(
                "frame of 200 x 50",
                lambda: [frame(snapshot, None, snapshot.runs, ScreenState(), size) for _ in range(FRAMES)],
                FRAMES,
                "frame",
            ),
        ]
        line = step_line(1)
        parse = Work(f"json.loads of {PARSED:,} lines", lambda: [json.loads(line) for _ in range(PARSED)])
        return [measure("status", works, parse, rounds)]


def _collector(root: Path) -> Collector:
    return Collector(lambda: find_runs(root), JobCache(root / "none", {}))


def step_line(number: int) -> str:
    """Return the journal line of a step."""
    return json.dumps(STEP | {"time": time.time(), "step": number}) + "\n"


def write_runs(root: Path, num_runs: int, num_events: int, name: str = RUN_NAME) -> None:
    """Write runs of `num_events` events each below `root`; `name` is formatted with the number of each."""
    lines = json.dumps(START | {"time": time.time()}) + "\n" + "".join(map(step_line, range(1, num_events)))
    for number in range(num_runs):
        run = RunDirectory(root / name.format(number))
        run.create()
        run.spec.write_text("name: run\n")
        run.journal.write_text(lines)
