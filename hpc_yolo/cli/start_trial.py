"""`hpc-yolo start-trial`: the first command of the batch script of a sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.exit_status import NOT_STARTED
from hpc_yolo.launch.trial import spent_budget, started_trial
from hpc_yolo.runs.sweep import run_in_job, sweep_of


@click.command("start-trial", hidden=True)
@click.argument("path", metavar="ARRAY", type=click.Path(path_type=Path))
def start_trial(path: Path) -> None:
    """Make the run directory of the trial that this task of ARRAY, the directory of an array of jobs, runs.

    If the budget of the sweep is spent, a trial that has not begun does not: the exit code is 75, and that of after-job
    is then 0.
    """
    run = run_in_job(path, current_environment())
    sweep = sweep_of(run)
    if sweep is not None and not run.exists and (spent := spent_budget(sweep)):
        click.echo(f"hpc-yolo: trial {run.name} does not start: {spent}")
        sys.exit(NOT_STARTED)
    started_trial(path)
    click.echo(f"hpc-yolo: trial {run.name} of {run.path.parent}")
