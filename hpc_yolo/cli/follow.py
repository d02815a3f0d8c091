"""`hpc-yolo follow`: show the progress of a queued or running run."""

from __future__ import annotations

import sys

import click

from hpc_yolo.cli.run_argument import RUN, named_run
from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.core.errors import RunError
from hpc_yolo.monitor.follow import follow as follow_run
from hpc_yolo.runs.submissions import last_chain


@click.command()
@RUN
def follow(written: str) -> None:
    """Show the progress of RUN, a name or a run directory, until its job ends. Ctrl-C leaves the job running."""
    run = named_run(written)
    chain = last_chain(run)
    if not chain:
        raise RunError(f"{run.path}: has no submitted job", hint="hpc-yolo status lists the known runs")
    sys.exit(follow_run(run, JobWatch(run), since=chain[0].time))
