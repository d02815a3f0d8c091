"""Evaluations by a job of its own (`validate: aside`): the models that wait, and the results, in files of their own.

Rank 0 writes a model and removes it once it has the result; the job that evaluates appends results. Epochs count
from 0.
"""

from __future__ import annotations

import re

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.journal import read_events

_EPOCH = re.compile(r"waiting-(\d+)\.safetensors")


def waiting_epochs(run: RunDirectory) -> list[int]:
    """Return the epochs whose models wait for an evaluation and have no result yet, in their order."""
    found = (_EPOCH.fullmatch(path.name) for path in run.checkpoints.glob(run.waiting_model("*").name))
    epochs = sorted(int(match[1]) for match in found if match is not None)
    results = results_by_epoch(run) if epochs else {}
    return [epoch for epoch in epochs if epoch not in results]


def results_by_epoch(run: RunDirectory) -> dict[int, Evaluated]:
    """Return the newest result of each epoch."""
    return {event.epoch: event for event in read_events(run.evaluation_results) if isinstance(event, Evaluated)}
