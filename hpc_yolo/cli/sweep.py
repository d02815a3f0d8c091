"""`hpc-yolo sweep`: the trials of a sweep, the best of them, and how to end all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from hpc_yolo.cli.run_argument import user_state_directory
from hpc_yolo.cli.runs import YES, confirm
from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.job_cache import JobCache
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import RunError, SchedulerUnavailable
from hpc_yolo.core.units import counted
from hpc_yolo.launch.best_trial import best_spec
from hpc_yolo.launch.sweep_actions import cancel_sweep
from hpc_yolo.launch.sweep_state import task_states
from hpc_yolo.monitor.snapshot import Collector
from hpc_yolo.monitor.sweep_facts import SweepFacts, TrialFacts, sweep_facts
from hpc_yolo.runs.metrics import METRIC_TITLES
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.trials import shown

SWEEP = click.argument("path", metavar="SWEEP", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


@click.group()
def sweep() -> None:
    """Show and cancel sweeps: the trials that the section sweep of a spec describes.

    \b
    hpc-yolo submit sweep.yaml               start the trials, as an array of jobs where Slurm is installed
    hpc-yolo sweep status runs/lr            how many are done, and the best so far
    hpc-yolo sweep table runs/lr             all trials, the best first
    hpc-yolo sweep best runs/lr --spec best.yaml

    SWEEP is the directory of a sweep, <output>/<name>.
    """


@sweep.command()
@SWEEP
@AS_JSON
def status(path: Path, as_json: bool) -> None:
    """Print the number of trials in each state, and the best trial so far."""
    facts, warning = facts_of(path)
    if as_json:
        best = None if facts.best is None else trial_json(facts.best)
        click.echo(json.dumps({"name": facts.name, "path": facts.path, "states": facts.counts, "best": best}, indent=2))
    else:
        states = ", ".join(f"{number} {state}" for state, number in facts.counts.items())
        click.echo(f"{facts.name}: {counted(len(facts.trials), 'trial')}: {states}")
        click.echo("no evaluation yet" if facts.best is None else f"best: {line_of(facts.best)}")
    _warn(warning)


@sweep.command()
@SWEEP
@AS_JSON
def table(path: Path, as_json: bool) -> None:
    """Print all trials with their values and best metrics, the best first."""
    facts, warning = facts_of(path)
    if as_json:
        click.echo(json.dumps([trial_json(trial) for trial in facts.ranked], indent=2))
    else:
        print_rows(facts)
    _warn(warning)


@sweep.command()
@SWEEP
@AS_JSON
@click.option(
    "--spec", "target", type=click.Path(path_type=Path), help="Write a spec of it, to train further or longer."
)
def best(path: Path, as_json: bool, target: Path | None) -> None:
    """Print the best trial: its values, metrics and run directory."""
    trial = best_of(path)
    if target is not None:
        write_spec(path, trial, target)
    if as_json:
        click.echo(json.dumps(trial_json(trial), indent=2))
        return
    click.echo(line_of(trial))
    click.echo(f"  run directory  {path / trial.name}")
    if target is not None:
        click.echo(f"  spec           {target}")


@sweep.command()
@SWEEP
@YES
def cancel(path: Path, yes: bool) -> None:
    """Cancel all trials; those that train save their state first."""
    directory = sweep_at(path)
    confirm(f"cancel all trials of {directory.name}?", yes=yes)
    click.echo(cancel_sweep(directory))


def best_of(path: Path) -> TrialFacts:
    """Return the best trial of the sweep in directory `path`.

    Raises:
        RunError: none has been evaluated yet.
    """
    facts, warning = facts_of(path)
    _warn(warning)
    if facts.best is None:
        raise RunError(
            f"{path}: no trial has been evaluated yet", hint=f"hpc-yolo sweep status {SweepDirectory(path).word}"
        )
    return facts.best


def write_best_spec(path: Path, directory: Path) -> Path:
    """Write a spec of the best trial of the sweep in directory `path` to `directory` and return its path.

    Raises:
        RunError: no trial has been evaluated yet, or the file exists.
    """
    trial = best_of(path)
    target = directory / f"{sweep_at(path).name}-best.yaml"
    write_spec(path, trial, target)
    click.echo(f"{'spec':14} {target}, of trial {line_of(trial)}")
    return target


def write_spec(path: Path, trial: TrialFacts, target: Path) -> None:
    """Write a spec of `trial`, of the sweep in directory `path`, to `target`."""
    best_spec(sweep_at(path), trial.name, trial.values, trial.metrics, target)


def sweep_at(path: Path) -> SweepDirectory:
    """Return the sweep in directory `path`.

    Raises:
        RunError: there is none.
    """
    found = SweepDirectory(path.absolute())
    if not found.exists:
        raise RunError(f"{path} is not the directory of a sweep", hint="hpc-yolo submit prints it: <output>/<name>")
    return found


def facts_of(path: Path) -> tuple[SweepFacts, str]:
    """Return the facts of the sweep in directory `path`, and why Slurm's part of them is missing."""
    directory, warning = sweep_at(path), ""
    tasks: dict[str, JobState] = {}
    try:
        tasks = task_states(directory)
    except SchedulerUnavailable as error:
        warning = f"Slurm does not answer: {error.message}"
    runs = [run for trial in directory.trials() if (run := directory.trial(trial.name)).exists]
    cache = JobCache(user_state_directory(), current_environment(), timeout_s=scheduler.PROMPT_TIMEOUT_S)
    snapshot = Collector(lambda: runs, cache).refresh()
    return sweep_facts(
        directory, {Path(run.path).name: run for run in snapshot.runs}, tasks
    ), warning or snapshot.slurm_error


def line_of(trial: TrialFacts) -> str:
    """Return a trial with its values and metrics in one line."""
    values = () if trial.metrics is None else trial.metrics.values()
    scores = ", ".join(f"{title} {value:.3f}" for title, value in zip(METRIC_TITLES.values(), values, strict=False))
    return f"{trial.name}  {shown(trial.values)}: {scores}"


def trial_json(trial: TrialFacts) -> dict[str, Any]:
    """Return a trial as JSON values."""
    run = trial.run
    return {
        "name": trial.name,
        "values": trial.values,
        "state": trial.state,
        "epoch": None if run is None else run.epoch,
        "metrics": msgspec.to_builtins(trial.metrics),
        "path": None if run is None else run.path,
    }


def print_rows(facts: SweepFacts) -> None:
    """Print a row for each trial, the best first."""
    rows = [facts.heads, *facts.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _warn(message: str) -> None:
    if message:
        click.echo(f"warning: {message}", err=True)
