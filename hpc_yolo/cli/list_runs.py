"""`hpc-yolo list`: print the directories of runs, for scripts."""

from __future__ import annotations

from pathlib import Path

import click

from hpc_yolo.cli.run_argument import known_runs, user_state_directory
from hpc_yolo.runs.index import gone_runs


@click.command("list")
@click.option("--root", type=click.Path(path_type=Path), help="Only the runs in this directory.")
@click.option("--all", "show_gone", is_flag=True, help="Include runs that have been moved or removed.")
def list_runs(root: Path | None, show_gone: bool) -> None:
    """Print the directory of each of your runs, one a line, for scripts. hpc-yolo status shows their state."""
    for run in known_runs(root):
        click.echo(str(run.path))
    for path in gone_runs(user_state_directory()) if show_gone else ():
        click.echo(f"{path} (moved or removed)")
