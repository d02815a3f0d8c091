"""The model that RUN or --weights names on the command line. Imports torch."""

from __future__ import annotations

from pathlib import Path

import click

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.inference.eval_target import ResolvedWeights, resolve_weights
from hpc_yolo.monitor.progress import counting_bytes
from hpc_yolo.weights.published import fetch
from hpc_yolo.weights.store import Store, locate


def find_weights(run: str | Path | None, weights: str | None) -> ResolvedWeights:
    """Return the file that a run, a path or a published name refers to; a published file is downloaded first.

    Raises:
        click.UsageError: not exactly one of `run` and `weights` is given.
        CheckpointError: there is no such file, or it cannot be downloaded.
    """
    if (run is None) == (weights is None):
        raise click.UsageError("name one model: a run or checkpoint as the argument, or a file with --weights")
    store = Store.from_env(current_environment())
    path = Path(locate(str(run or weights), store))
    if path == store.path(path.name):
        with counting_bytes(path.name) as on_progress:
            fetch(path.name, store, on_progress=on_progress)
    return resolve_weights(path)
