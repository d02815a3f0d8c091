"""What --weights, or a run in its place, means on the command line: published names are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc_yolo.cli.weights import download_progress

if TYPE_CHECKING:
    from hpc_yolo.inference.eval_target import Named


def find_weights(run: str | Path | None, weights: str | None) -> Named:
    """The file that a run, a path or a published name stands for; a published one is fetched first."""
    from hpc_yolo.cluster.process import current_environment
    from hpc_yolo.inference.eval_target import find_named
    from hpc_yolo.weights.published import fetch
    from hpc_yolo.weights.store import Store, locate

    if (run is None) == (weights is None):
        raise click.UsageError("name one: a run or checkpoint as the argument, or a file with --weights")
    store = Store.from_env(current_environment())
    path = Path(locate(str(run or weights), store))
    if path == store.path(path.name):
        with download_progress(path.name) as on_progress:
            fetch(path.name, store, on_progress=on_progress)
    return find_named(path)
