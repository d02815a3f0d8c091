"""The RUN argument of commands: a name from the user's index or a path, completed by the shell."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import RunError
from hpc_yolo.runs.directory import RunDirectory, find_runs
from hpc_yolo.runs.index import find_run, gone_runs, indexed_paths, indexed_runs, state_directory
from hpc_yolo.runs.sweep import SweepDirectory, find_sweeps

DEFAULT_ROOT = Path("runs")


def complete_run(_context: click.Context, _parameter: click.Parameter, prefix: str) -> list[str]:
    """Return the names of runs that begin with `prefix`, for the shell."""
    return sorted({run.name for run in known_runs() if run.name.startswith(prefix)})


RUN = click.argument("written", metavar="RUN", shell_complete=complete_run)
RUNS = click.argument("written", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)


def user_state_directory() -> Path:
    """Return the directory in which this user's index of runs is kept."""
    return state_directory(current_environment())


def known_runs(root: Path | None = None) -> list[RunDirectory]:
    """Return the runs in `root`; without it those in ./runs and in the user's index, each once."""
    if root is not None:
        return find_runs(root)
    here: list[RunDirectory] = []
    with contextlib.suppress(RunError):  # ./runs of another user is no reason to hide the runs of this one
        here = find_runs(DEFAULT_ROOT.absolute())
    runs = (*here, *indexed_runs(user_state_directory()))
    return list({run.path.resolve(): run for run in runs}.values())


def known_sweeps(root: Path | None = None) -> list[SweepDirectory]:
    """Return the sweeps in `root`; without it those in ./runs and in the user's index, each once."""
    sweeps = find_sweeps(DEFAULT_ROOT.absolute() if root is None else root)
    if root is None:
        sweeps += [SweepDirectory(path) for path in indexed_paths(user_state_directory())]
    return list({sweep.path.resolve(): sweep for sweep in sweeps if sweep.exists}.values())


def named_run(written: str) -> RunDirectory:
    """Return the run with the name or path `written`.

    Raises:
        RunError: there is none, or several have that name.
    """
    return find_run(written, known_runs(), gone_runs(user_state_directory()))
