"""The weights of a spec on this machine: their path, and downloading them before compute nodes need them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import Spec
from hpc_yolo.weights.published import fetch
from hpc_yolo.weights.store import Progress, Store, locate


def with_located_weights(spec: Spec) -> Spec:
    """Return `spec` with the path of its weights, which may have to be downloaded."""
    return msgspec.structs.replace(spec, weights=locate(spec.weights, Store.from_env(current_environment())))


def needed_weights(spec: Spec, run: RunDirectory) -> str:
    """Return the weights of `spec`; "" where `run` has saved a state, from which it goes on without them."""
    return "" if any(run.checkpoints.glob("state-*.safetensors")) else spec.weights


def fetch_weights(weights: str, on_progress: Progress) -> None:
    """Download the published file `weights`, unless it exists. Compute nodes may have no internet access.

    Raises:
        CheckpointError: the download failed; the message has an alternative.
    """
    store = Store.from_env(current_environment())
    path = Path(weights)
    if weights and path == store.path(path.name):
        fetch(path.name, store, on_progress=on_progress)
