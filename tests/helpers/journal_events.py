"""Events of a journal with values for all fields; a test names those that matter to it."""

from __future__ import annotations

from typing import Any

from hpc_yolo.runs.events import AttemptStarted, RankLocation, StepLogged


def ranks_on(*hosts: str) -> list[RankLocation]:
    """Return one rank on each of `hosts`."""
    return [RankLocation(rank=rank, local_rank=0, node_rank=rank, host=host, pid=1) for rank, host in enumerate(hosts)]


def started(time: float = 0.0, attempt: int = 1, step: int = 0, **fields: Any) -> AttemptStarted:
    """Return the start of an attempt of job 7: one rank on a CPU, 2 epochs of 5 steps, 8 images each."""
    defaults: dict[str, Any] = {
        **{"job_id": "7", "launcher": "slurm", "device": "cpu", "precision": "float32", "ranks": []},
        **{"world_size": 1, "num_nodes": 1, "batch": 8, "epochs": 2, "steps_per_epoch": 5, "num_images": 40},
        "epoch": 0,
    }
    return AttemptStarted(time=time, attempt=attempt, step=step, **(defaults | fields))


def stepped(time: float = 0.0, step: int = 5, attempt: int = 1, **fields: Any) -> StepLogged:
    """Return a log line, without losses and ranks unless they are given."""
    defaults: dict[str, Any] = {
        **{"epoch": 0, "losses": {}, "grad_norm": None, "lr": 0.1, "images_per_s": 1.0},
        **{"rank_step_s": [], "rank_data_wait_s": [], "rank_mem_bytes": []},
    }
    return StepLogged(time=time, attempt=attempt, step=step, **(defaults | fields))
