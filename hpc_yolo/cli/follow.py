"""`hpc-yolo follow`: watch a run that is queued or running."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
def follow(run_path: Path) -> None:
    """Show the progress of the run in directory RUN until its job ends; Ctrl-C leaves the job alone."""
    from hpc_yolo.errors import RunError
    from hpc_yolo.runs.directory import RunDirectory
    from hpc_yolo.runs.submissions import last_chain
    from hpc_yolo.status.follow import follow as follow_run
    from hpc_yolo.submit.job import SubmittedJob

    run = RunDirectory(run_path.absolute())
    chain = last_chain(run)
    if not chain:
        raise RunError(f"{run_path}: nothing was submitted there", hint="hpc-yolo status lists the runs there are")
    sys.exit(follow_run(run, SubmittedJob(run, chain[0]), since=chain[0].time))
