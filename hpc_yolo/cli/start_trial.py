"""`hpc-yolo start-trial`: the first command of the batch script of a sweep."""

from __future__ import annotations

from pathlib import Path

import click

from hpc_yolo.launch.trial import started_trial


@click.command("start-trial", hidden=True)
@click.argument("path", metavar="ARRAY", type=click.Path(path_type=Path))
def start_trial(path: Path) -> None:
    """Make the run directory of the trial that this task of ARRAY, the directory of an array of jobs, runs."""
    run = started_trial(path)
    click.echo(f"hpc-yolo: trial {run.name} of {run.path.parent}")
