"""Commands that act on existing runs: `cancel`, `requeue`, `rm`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from hpc_yolo.cli.run_argument import RUNS, named_run, user_state_directory
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.launch.actions import cancel_run, remove_run, requeue_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.index import remove_from_index

YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask `question` on the terminal unless `yes`.

    Raises:
        click.UsageError: standard input is not a terminal.
        click.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Standard input is not a terminal: confirm with --yes")
    click.confirm(question, abort=True)


def for_each(written: tuple[str, ...], action: Callable[[RunDirectory], str], question: str, *, yes: bool) -> None:
    """Apply `action` to each named run after confirmation; an error for one run does not stop the others.

    Raises:
        RunError: a name matches no run; nothing was done.
        HpcYoloError: the last of the errors.
    """
    runs = {run.path: run for run in map(named_run, written)}.values()
    confirm(f"{question} {', '.join(str(run.path) for run in runs)}?", yes=yes)
    errors: list[HpcYoloError] = []
    for run in runs:
        try:
            click.echo(action(run))
        except HpcYoloError as error:
            errors.append(error)
    for other in errors[:-1]:
        click.echo(click.style("error: ", fg="red", bold=True) + str(other), err=True)
    if errors:
        raise errors[-1]


@click.command()
@RUNS
@YES
def cancel(written: tuple[str, ...], yes: bool) -> None:
    """Cancel the job of each RUN, a name or a run directory. Training saves a checkpoint first and is not requeued."""
    for_each(written, cancel_run, "cancel", yes=yes)


@click.command()
@RUNS
@YES
def requeue(written: tuple[str, ...], yes: bool) -> None:
    """Requeue the running Slurm job of each RUN, a name or a run directory. Training saves a checkpoint first."""
    for_each(written, requeue_run, "interrupt and requeue", yes=yes)


@click.command()
@RUNS
@YES
def rm(written: tuple[str, ...], yes: bool) -> None:
    """Remove the directory of each RUN and everything in it. A run that is queued or training is not removed."""
    for_each(written, remove, "remove, with all checkpoints,", yes=yes)


def remove(run: RunDirectory) -> str:
    """Remove `run` and its entry in the index; return the message for the terminal."""
    remove_run(run)
    remove_from_index(user_state_directory(), run)
    return f"removed {run.path}"
