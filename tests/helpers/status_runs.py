"""Run directories written by hand, for the tests of the screen."""

import json
from pathlib import Path
from typing import Any

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission

RANKS = 2
START: dict[str, Any] = {
    **{"event": "attempt_started", "format_version": 2, "job_id": "7", "launcher": "slurm", "device": "cpu"},
    **{"precision": "float32", "world_size": RANKS, "num_nodes": 1, "batch": 16, "epochs": 4, "steps_per_epoch": 100},
    **{"num_images": 1600, "epoch": 0, "step": 0},
    "ranks": [{"rank": rank, "local_rank": rank, "node_rank": 0, "host": f"gpu{rank}", "pid": 1} for rank in range(2)],
}
STEP = {
    **{"event": "step", "epoch": 0, "step": 10, "losses": {"box": 0.1, "obj": 0.2, "cls": 0.3}},
    **{"grad_norm": 1.0, "lr": 0.01},
    **{"images_per_s": 50.0, "rank_step_s": [0.5, 0.5], "rank_data_wait_s": [0.0, 0.0], "rank_mem_bytes": [1, 2]},
}
EVALUATED = {
    **{"event": "evaluated", "epoch": 0, "step": 100, "num_images": 8, "classes": []},
    "metrics": {"precision": 0.5, "recall": 0.5, "map50": 0.6, "map50_95": 0.4},
    **{"images_per_s": 9.0, "seconds": 1.0, "is_best": True},
}
LEFT = {"event": "training_left", "epoch": 0, "step": 20, "signal": 15}
END = {"event": "attempt_ended", "outcome": "stopped", "epoch": 0, "step": 20, "detail": "SIGTERM", "requeued": True}


def make_run(
    root: Path, name: str, *, executor: str | None = "slurm", job_id: str = "7", time: float = 10.0
) -> RunDirectory:
    """Make a run that was submitted at `time`; one that was started by hand where `executor` is None."""
    run = RunDirectory(root / name)
    run.create()
    run.spec.write_text("name: run\n")
    if executor is not None:
        add_submission(
            run,
            Submission(
                time=time,
                executor=executor,
                job_id=job_id,
                host="elsewhere",
                num_nodes=1,
                tasks_per_node=RANKS,
                gpus_per_node=2,
            ),
        )
    return run


def append_events(run: RunDirectory, *events: dict[str, object]) -> None:
    """Append `events` as rank 0 would, at times 20, 21 … of attempt 1 unless they say otherwise."""
    num_before = len(run.journal.read_text().splitlines()) if run.journal.exists() else 0
    with run.journal.open("a") as file:
        for number, event in enumerate(events):
            kind = {"event": event["event"], "time": 20.0 + num_before + number, "attempt": 1}
            file.write(json.dumps(kind | event, separators=(",", ":")) + "\n")
