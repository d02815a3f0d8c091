"""`hpc-yolo status`: the known runs and their state."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from hpc_yolo.cli.options import NumberRange
from hpc_yolo.cli.run_argument import DEFAULT_ROOT, known_runs, known_sweeps, user_state_directory
from hpc_yolo.cluster.job_cache import TIMEOUT_S, JobCache
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.scheduler import PROMPT_TIMEOUT_S
from hpc_yolo.monitor.blocks import one_line
from hpc_yolo.monitor.columns import run_json
from hpc_yolo.monitor.snapshot import Collector, Snapshot
from hpc_yolo.monitor.sweep_rows import folded, with_trials
from hpc_yolo.runs.directory import is_unreadable, owner_name, unreadable_directories

PIPE_COLUMNS = 10_000  # of a line in a pipe, which has no width of its own
MAX_INTERVAL_S = 86400.0
SCREEN_INTERVAL_S = 1.0


@click.command()
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Only the runs in this directory. [default: all of yours, and ./runs]",
)
@click.option("--once", is_flag=True, help="Print a table and exit, as in a pipe.")
@click.option(
    "--watch",
    "interval_s",
    metavar="SECONDS",
    type=NumberRange(min=1.0, max=MAX_INTERVAL_S),
    help="Refresh interval; in a pipe, print the table or a line of JSON at each refresh.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts: one object a run.")
def status(root: Path | None, once: bool, interval_s: float | None, as_json: bool) -> None:
    """Show your runs: state, job, nodes x tasks, epoch, loss, mAP, images a second, and problems.

    A sweep is one row; on a screen enter lists its trials below it, and JSON has all of them.

    On a terminal the screen is live; ? lists its keys. Slurm is queried every ten seconds at most, however many screens
    are open; an old answer is shown with its age.
    """
    if once and interval_s is not None:
        raise click.UsageError("--once excludes --watch: it prints once")
    is_live = is_interactive() and not (once or as_json)
    timeout_s = TIMEOUT_S if is_live else PROMPT_TIMEOUT_S
    jobs = JobCache(user_state_directory(), current_environment(), timeout_s=timeout_s)
    collector = Collector(lambda: known_runs(root), jobs, find_sweeps=lambda: known_sweeps(root))
    if is_live:
        from hpc_yolo.launch.actions import requeue_run  # with the screen: 80 ms
        from hpc_yolo.launch.sweep_actions import cancel_run_or_sweep
        from hpc_yolo.monitor.tui.app import run_screen

        actions = {"cancel": cancel_run_or_sweep, "requeue": requeue_run}
        run_screen(collector, actions, interval_s=interval_s or SCREEN_INTERVAL_S)
        return
    while True:
        snapshot = collector.refresh()
        if as_json:
            print_json(snapshot, indent=2 if interval_s is None else None)
        else:
            print_table(snapshot, root)
        sys.stdout.flush()
        if interval_s is None:
            return
        time.sleep(interval_s)


def is_interactive() -> bool:
    """Return True if standard input and output are a terminal that can show a screen."""
    can_draw = current_environment().get("TERM", "dumb") not in ("dumb", "unknown", "")
    return can_draw and sys.stdin.isatty() and sys.stdout.isatty()


def print_json(snapshot: Snapshot, *, indent: int | None) -> None:
    """Print the runs and sweeps of `snapshot` as JSON, and to standard error why Slurm's answer is missing."""
    rows, trials = folded(snapshot.runs, snapshot.sweeps)
    click.echo(json.dumps([run_json(run) for run in with_trials(rows, trials, trials)], indent=indent))
    if snapshot.slurm_error:
        click.echo(f"warning: {snapshot.slurm_text}", err=True)


def print_table(snapshot: Snapshot, root: Path | None) -> None:
    """Print the runs of `snapshot` as a table, and messages about single runs below it."""
    if closed := unreadable_directories((root or DEFAULT_ROOT).absolute()):
        owners = sorted({owner_name(path) for path in closed})
        verb = "is" if len(closed) == 1 else "are"
        what = "./runs is" if root is None and is_unreadable(DEFAULT_ROOT) else f"{len(closed)} more {verb}"
        click.echo(f"{what} not readable, of {', '.join(owners)}", err=True)
    rows, _ = folded(snapshot.runs, snapshot.sweeps)
    if not rows:
        where = "" if root is None else f" under {root}"
        click.echo(f"no runs{where}; start one with: hpc-yolo submit configs/quickstart.yaml")
        return

    from hpc_yolo.monitor.console import data_console
    from hpc_yolo.monitor.tui.view import runs_details, runs_table

    console = data_console(pipe_columns=PIPE_COLUMNS)
    console.print(runs_table(rows, console.width))
    for line in runs_details(rows):
        console.print(line)
    if snapshot.slurm_error:
        console.print(one_line(snapshot.slurm_text), style="yellow", markup=False, highlight=False)
