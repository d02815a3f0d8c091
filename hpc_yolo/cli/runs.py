"""Commands about runs that are there: `list`, `cancel`, `requeue`, `resume`, `rm`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hpc_yolo.runs.directory import RunDirectory

DEFAULT_ROOT = Path("runs")


def complete_run(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """The names of runs that begin so, for the shell."""
    return sorted({run.name for run in known_runs() if run.name.startswith(begun)})


RUN = click.argument("written", metavar="RUN", shell_complete=complete_run)
RUNS = click.argument("written", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
YES = click.option("--yes", is_flag=True, help="Do not ask.")


def known_runs(root: Path | None = None) -> list[RunDirectory]:
    """The runs in `root`, else those in the person's index and in ./runs, each once."""
    from hpc_yolo.cluster.process import current_environment
    from hpc_yolo.runs.directory import find_runs
    from hpc_yolo.runs.index import indexed_runs, state_directory

    if root is not None:
        return find_runs(root)
    runs = (*find_runs(DEFAULT_ROOT.absolute()), *indexed_runs(state_directory(current_environment())))
    return list({run.path.resolve(): run for run in runs}.values())


def named_run(written: str) -> RunDirectory:
    """The run that a person means by a name or a path.

    Raises:
        RunError: there is none, or several.
    """
    from hpc_yolo.cluster.process import current_environment
    from hpc_yolo.runs.index import find_run, gone_runs, state_directory

    return find_run(written, known_runs(), gone_runs(state_directory(current_environment())))


@click.command("list")
@click.option("--root", type=click.Path(path_type=Path), help="Only the runs in this directory.")
@click.option("--all", "show_gone", is_flag=True, help="Name those too that have been moved or removed.")
def list_runs(root: Path | None, show_gone: bool) -> None:
    """Print the directory of every run of yours, one a line, for scripts; hpc-yolo status says how they stand."""
    from hpc_yolo.cluster.process import current_environment
    from hpc_yolo.runs.index import gone_runs, state_directory

    for run in known_runs(root):
        click.echo(str(run.path))
    for path in gone_runs(state_directory(current_environment())) if show_gone else ():
        click.echo(f"{path} (moved or removed)")


def agreed(question: str, *, yes: bool) -> None:
    """Ask, unless `yes` was said already.

    Raises:
        click.UsageError: there is nobody to ask.
        click.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to ask: say --yes")
    click.confirm(question, abort=True)


def for_each(written: tuple[str, ...], action: Callable[[RunDirectory], str], question: str, *, yes: bool) -> None:
    """Carry out `action` on every run that is named, once all are found and a person agrees; one refusal stops none.

    Raises:
        RunError: a name that is no run's, before anything is done.
        HpcYoloError: the last refusal.
    """
    from hpc_yolo.core.errors import HpcYoloError

    runs = {run.path: run for run in map(named_run, written)}.values()
    agreed(f"{question} {', '.join(run.name for run in runs)}?", yes=yes)
    refusals: list[HpcYoloError] = []
    for run in runs:
        try:
            click.echo(action(run))
        except HpcYoloError as refusal:
            refusals.append(refusal)
    for other in refusals[:-1]:
        click.echo(click.style("error: ", fg="red", bold=True) + str(other), err=True)
    if refusals:
        raise refusals[-1]


@click.command()
@RUNS
@YES
def cancel(written: tuple[str, ...], yes: bool) -> None:
    """End the job of each RUN, a name or a run directory. What trains saves first; it does not come back by itself."""
    from hpc_yolo.launch.actions import cancel_run

    for_each(written, cancel_run, "cancel", yes=yes)


@click.command()
@RUNS
@YES
def requeue(written: tuple[str, ...], yes: bool) -> None:
    """Put the running job of each RUN, a name or a run directory, back into Slurm's queue; it saves first."""
    from hpc_yolo.launch.actions import requeue_run

    for_each(written, requeue_run, "interrupt and queue again", yes=yes)


@click.command()
@RUNS
@click.option("--set", "assignments", metavar="PATH=VALUE", multiple=True, help="Change a field that a run may change.")
@click.option("--follow", is_flag=True, help="Show its progress until it ends. Local runs are always followed.")
def resume(written: tuple[str, ...], assignments: tuple[str, ...], follow: bool) -> None:
    """Submit each RUN again, finished, failed or cancelled, in the same directory; it goes on from its last checkpoint.

    Such as: hpc-yolo resume first --set train.epochs=200
    """
    from hpc_yolo.cli.options import read_overrides
    from hpc_yolo.cli.submit import carry_out
    from hpc_yolo.launch.plan import make_plan
    from hpc_yolo.launch.preflight import preflight
    from hpc_yolo.launch.weights import with_located_weights
    from hpc_yolo.spec.load import load_resolved_spec

    overrides = read_overrides(assignments, {})
    plans = [
        make_plan(with_located_weights(load_resolved_spec(run.spec, overrides))) for run in map(named_run, written)
    ]
    local = [plan.run.name for plan in plans if not plan.uses_slurm]
    if len(plans) > 1 and (local or follow):
        raise click.UsageError(f"{local[0] if local else 'each'} is followed to its end: resume one at a time")
    for plan in plans:
        for warning in preflight(plan.spec, plan.run, for_slurm=plan.uses_slurm):
            click.echo(click.style("warning: ", fg="yellow", bold=True) + warning, err=True)
    for plan in plans:
        carry_out(plan, follow=follow, wait=False)


@click.command()
@RUNS
@YES
def rm(written: tuple[str, ...], yes: bool) -> None:
    """Remove the directory of each RUN with everything in it. One that is queued or trains is not removed."""
    from hpc_yolo.cluster.process import current_environment
    from hpc_yolo.launch.actions import remove_run
    from hpc_yolo.runs.index import remove_from_index, state_directory

    def removed(run: RunDirectory) -> str:
        remove_run(run)
        remove_from_index(state_directory(current_environment()), run)
        return f"removed {run.path}"

    for_each(written, removed, "remove, with all checkpoints,", yes=yes)
