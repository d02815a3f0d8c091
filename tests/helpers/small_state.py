"""A training state of a few kilobytes, for tests that read thousands of files."""

from __future__ import annotations

import torch

from hpc_yolo.checkpoint import ModelDescription, Position
from hpc_yolo.checkpoint.file import write_file
from hpc_yolo.checkpoint.state import header_texts, named_tensors
from hpc_yolo.checkpoint.store import published, state_path
from hpc_yolo.runs.directory import RunDirectory

DESCRIPTION = ModelDescription(model="tiny", config={"depth": 1}, names=["a"], imgsz=32)


def save_small_state(run: RunDirectory, step: int, attempt: int = 1, keep: int = 2, num_values: int = 60) -> None:
    """Save a state whose tensors are filled with `step`, as training does."""
    values = torch.full((num_values,), float(step))
    parts = {
        "position": Position(step=step).state_dict(),
        "model": {"a": values},
        "ema": {"a": values, "updates": step},
        "optimizer": {"0.momentum_buffer": values},
        "meter": {"rank_sums": [[0.1 * step] * 6]},
    }
    path = state_path(run, attempt, step)
    write_file(path, dict(named_tensors(parts)), header_texts(DESCRIPTION, parts))
    published(run, path, keep)
