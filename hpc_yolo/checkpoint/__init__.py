"""Checkpoints: written in the background, verified when read, the last few kept."""

from hpc_yolo.checkpoint.state import (
    ModelDescription,
    Position,
    Stateful,
    TrainingState,
    load_model,
    read_state,
    restore,
    save_model,
)

__all__ = [
    "ModelDescription",
    "Position",
    "Stateful",
    "TrainingState",
    "load_model",
    "read_state",
    "restore",
    "save_model",
]
