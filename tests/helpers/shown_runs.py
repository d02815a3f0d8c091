"""Facts of runs as the screens show them, without a run directory."""

from collections.abc import Iterable
from typing import Any

import msgspec
from status_runs import EVALUATED, START, STEP

from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.snapshot import Snapshot
from hpc_yolo.runs.events import AnyEvent, Evaluated
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.submissions import Submission

DECODER = msgspec.json.Decoder(AnyEvent)


STARTED, PROGRESS, BEST, RANKS = (
    DECODER.decode(msgspec.json.encode({"time": 19.0, "attempt": 1} | event))
    for event in (
        START | {"steps_per_epoch": 10, "world_size": 8, "num_nodes": 2},
        STEP | {"epoch": 1},
        EVALUATED | {"metrics": {"map50": 0.625, "map50_95": 0.5}},
        STEP | {"rank_data_wait_s": [0.25, 0.0], "rank_mem_bytes": [2**30, 1]},
    )
)


SUBMISSION = Submission(
    time=10.0, executor="slurm", job_id="7", host="login", num_nodes=2, tasks_per_node=4, gpus_per_node=4
)


def run_facts(name: str = "run", *, job_id: str = "7", images_per_s: float | None = 50.0, **changes: Any) -> RunFacts:
    """Make facts of a run on 2 nodes x 4 tasks at step 10 of 40, with metrics."""
    facts: dict[str, Any] = {
        **{"state": "running", "started": STARTED, "best": BEST, "updated": 20.0, "loss_trend": [3.0, 2.0, 1.0]},
        **{"causes": {"preempted": 2, "time limit": 1}, "checkpoint_time": 10.0},
        "submission": msgspec.structs.replace(SUBMISSION, job_id=job_id),
        "progress": msgspec.structs.replace(PROGRESS, images_per_s=images_per_s or 0.0),
    }
    return RunFacts(name=name, path=f"/runs/{name}", **(facts | changes))


def best(map50_95: float | None) -> Evaluated | None:
    """Make a best evaluation with a mAP; None for None."""
    return None if map50_95 is None else msgspec.structs.replace(BEST, metrics=Metrics(map50_95=map50_95))


def snapshot_of(runs: Iterable[RunFacts], **changes: Any) -> Snapshot:
    """Make a snapshot of `runs` at 100 s."""
    return Snapshot(time=100.0, runs=list(runs), **changes)
