"""`hpc-yolo status`: the runs there are, and how they stand."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc_yolo.cli.runs import DEFAULT_ROOT, known_runs

if TYPE_CHECKING:
    from hpc_yolo.monitor.snapshot import Snapshot

PIPE_COLUMNS = 200
SCREEN_INTERVAL_S = 1.0


@click.command()
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Only the runs in this directory. [default: all of yours, and ./runs]",
)
@click.option("--once", is_flag=True, help="Print a table and leave, as in a pipe.")
@click.option(
    "--watch",
    "interval_s",
    metavar="SECONDS",
    type=click.FloatRange(min=1.0),
    help="Look every so many seconds; in a pipe, print the table or a line of JSON each time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts: one object a run.")
def status(root: Path | None, once: bool, interval_s: float | None, as_json: bool) -> None:
    """Show your runs: state, job, nodes x tasks, epoch, loss, mAP, images a second, and what needs a look.

    On a terminal the screen is live; ? lists its keys. Slurm is asked every ten seconds at most, however many screens
    you have; an old answer says how old it is.
    """
    from hpc_yolo.cluster.job_cache import TIMEOUT_S, JobCache
    from hpc_yolo.cluster.process import current_environment
    from hpc_yolo.cluster.scheduler import PROMPT_TIMEOUT_S
    from hpc_yolo.monitor.snapshot import Collector
    from hpc_yolo.runs.index import state_directory

    if once and interval_s is not None:
        raise click.UsageError("--once prints once, --watch again and again: name one")
    environ = current_environment()
    directory = state_directory(environ)
    is_live = is_for_eyes() and not (once or as_json)
    timeout_s = TIMEOUT_S if is_live else PROMPT_TIMEOUT_S
    collector = Collector(lambda: known_runs(root), JobCache(directory, environ, timeout_s=timeout_s))
    if is_live:
        from hpc_yolo.launch.actions import cancel_run, requeue_run
        from hpc_yolo.monitor.tui.app import run_screen

        actions = {"cancel": cancel_run, "requeue": requeue_run}
        run_screen(collector, actions, interval_s=interval_s or SCREEN_INTERVAL_S)
        return
    while True:
        show(collector.refresh(), root, as_json=as_json, compact=interval_s is not None)
        if interval_s is None:
            return
        time.sleep(interval_s)


def is_for_eyes() -> bool:
    """Whether there is a terminal on both sides that can show a screen."""
    from hpc_yolo.cluster.process import current_environment

    is_able = current_environment().get("TERM", "dumb") not in ("dumb", "unknown", "")
    return is_able and sys.stdin.isatty() and sys.stdout.isatty()


def show(snapshot: Snapshot, root: Path | None, *, as_json: bool, compact: bool) -> None:
    """Print `snapshot` for a pipe."""
    from hpc_yolo.runs.directory import owner_name, unreadable_directories

    if as_json:
        from hpc_yolo.monitor.columns import run_json

        indent = None if compact else 2
        click.echo(json.dumps([run_json(run) for run in snapshot.runs], indent=indent))
        sys.stdout.flush()
        if snapshot.slurm_error:
            click.echo(f"warning: {snapshot.slurm_text}", err=True)
        return
    if closed := unreadable_directories((root or DEFAULT_ROOT).absolute()):
        owners = sorted({owner_name(path) for path in closed})
        click.echo(
            f"{len(closed)} more {'is' if len(closed) == 1 else 'are'} not readable, of {', '.join(owners)}", err=True
        )
    if not snapshot.runs:
        place = "" if root is None else f" under {root}"
        click.echo(f"no runs{place}; start one with: hpc-yolo submit configs/quickstart.yaml")
        return
    from rich.console import Console

    from hpc_yolo.monitor.blocks import one_line
    from hpc_yolo.monitor.tui.view import runs_details, runs_table

    # A pipe has no width of its own: print whole lines there.
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    console.print(runs_table(snapshot.runs, console.width))
    for line in runs_details(snapshot.runs):
        console.print(line)
    if snapshot.slurm_error:
        console.print(one_line(snapshot.slurm_text), style="yellow", markup=False, highlight=False)
    sys.stdout.flush()
