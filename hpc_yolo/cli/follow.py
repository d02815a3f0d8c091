"""`hpc-yolo follow`: watch a run that is queued or running."""

from __future__ import annotations

import sys

import click

from hpc_yolo.cli.runs import RUN, named_run


@click.command()
@RUN
def follow(written: str) -> None:
    """Show the progress of RUN, a name or a run directory, until its job ends; Ctrl-C leaves the job alone."""
    from hpc_yolo.cluster.jobs import JobWatch
    from hpc_yolo.core.errors import RunError
    from hpc_yolo.monitor.follow import follow as follow_run
    from hpc_yolo.runs.submissions import last_chain

    run = named_run(written)
    chain = last_chain(run)
    if not chain:
        raise RunError(f"{run.path}: nothing was submitted there", hint="hpc-yolo status lists the runs there are")
    sys.exit(follow_run(run, JobWatch(run), since=chain[0].time))
