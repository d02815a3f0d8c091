"""Training state in and out: files that are whole or refused, the last few kept, written beside the training."""

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
