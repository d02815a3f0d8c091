"""`hpc-yolo status`: the runs there are, and how they stand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

PIPE_COLUMNS = 200


@click.command(short_help="List the runs there are and how they stand.")
@click.option("--root", default="runs", show_default=True, type=click.Path(path_type=Path), help="Folder of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts: one object a run.")
def status(root: Path, as_json: bool) -> None:
    """List the runs under a folder: state, job, nodes x tasks, epoch, loss, mAP, images a second, attempts."""
    from hpc_yolo.cluster import scheduler
    from hpc_yolo.errors import ClusterError
    from hpc_yolo.runs.directory import find_runs
    from hpc_yolo.status.snapshot import slurm_job_ids, take_snapshot

    runs = find_runs(root)
    job_ids = slurm_job_ids(runs)
    job_states = {}
    if job_ids:
        try:
            job_states = scheduler.job_states(job_ids, scheduler.LOOK_TIMEOUT_S)
        except ClusterError as error:
            click.echo(f"warning: {error.message}; states are those of the journals", err=True)
    facts = take_snapshot(runs, job_states)
    if as_json:
        import msgspec

        click.echo(json.dumps(msgspec.to_builtins(facts), indent=2))
        return
    if not facts:
        click.echo(f"no runs under {root}; start one with: hpc-yolo submit configs/quickstart.yaml")
        return
    from rich.console import Console

    from hpc_yolo.status.view import runs_details, runs_table

    # A pipe has no width of its own: print whole lines there.
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    console.print(runs_table(facts))
    for line in runs_details(facts):
        console.print(line)
