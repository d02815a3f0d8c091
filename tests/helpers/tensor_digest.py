"""One number for everything that a run has learned."""

import hashlib

from hpc_yolo.checkpoint import read_state
from hpc_yolo.checkpoint.store import saved_states
from hpc_yolo.runs.directory import RunDirectory


def digest(run: RunDirectory) -> str:
    """Return the SHA-256 of weights, averages and optimiser of the newest state."""
    tensors = read_state(saved_states(run)[0]).tensors
    summed = hashlib.sha256()
    for name in sorted(tensors):
        summed.update(name.encode() + tensors[name].numpy().tobytes())
    return summed.hexdigest()
