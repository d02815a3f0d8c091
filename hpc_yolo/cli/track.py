"""`hpc-yolo track`: bring the values of runs to a tracker of experiments."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import msgspec

from hpc_yolo.cli.run_argument import RUNS, named_run
from hpc_yolo.cli.trial_following import TrialFollowing
from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import HpcYoloError, RunError, SpecError, TrackerError
from hpc_yolo.core.units import counted
from hpc_yolo.launch.beside import run_beside, same_parent
from hpc_yolo.launch.prepare import submitted_spec
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.tracking import TRACKERS, TrackingSpec, has_password, tracking_findings
from hpc_yolo.tracking.follower import RunFollower
from hpc_yolo.tracking.following import POLL_S, Following
from hpc_yolo.tracking.trackers import new_tracker


@click.command()
@RUNS
@click.option("--to", type=click.Choice(TRACKERS), help="Tracker. [default: tracking.to of the run's spec]")
@click.option("--project", help="Project (wandb: entity/project too; trackio) or experiment (mlflow).")
@click.option("--uri", help="Server or database of mlflow. [default: MLFLOW_TRACKING_URI]")
@click.option("--offline", is_flag=True, default=None, help="wandb: a directory for wandb sync, even with a key.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for files: those of csv, tensorboard and wandb. [default: tracking in the run directory]",
)
@click.option("--follow", is_flag=True, help="Go on until the runs have ended.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each run.")
def track(
    written: tuple[str, ...],
    directory: Path | None,
    follow: bool,
    as_json: bool,
    **options: str | bool | None,
) -> None:
    """Bring the values of each RUN to a tracker, from its journal: losses, learning rate, metrics, speed.

    Of a sweep, named by its directory, those of all trials that have begun; with --follow also of those that begin
    later. A run is one run in the tracker, whatever the number of its attempts. This command may be repeated, or
    killed: it continues where the tracker ends, so that each step is there once. Keys are read from the tracker's own
    place, such as wandb login; without a key wandb writes a directory for wandb sync.
    """
    found = {one: SweepDirectory(Path(one).absolute()) for one in written}
    sweeps = [sweep for sweep in found.values() if sweep.exists]
    runs = [named_run(one) for one, sweep in found.items() if not sweep.exists]
    runs += [] if follow else [run for sweep in sweeps for run in begun_trials(sweep)]
    runs = list({run.path.resolve(): run for run in runs}.values())
    specs = [requested(run, options) for run in runs]
    place = None if directory is None else directory.absolute()
    environ = current_environment()
    if follow:
        pairs = zip(runs, specs, strict=True)
        begun = [Following(run, spec, environ, is_alive=job_watch(run), directory=place) for run, spec in pairs]
        trials = [TrialFollowing(sweep, lambda run: requested(run, options), environ, place) for sweep in sweeps]
        follow_all(begun, trials, as_json=as_json)
        return
    status = 0
    for run, spec in zip(runs, specs, strict=True):
        try:
            with RunFollower(run, partial(new_tracker, spec, environ), spec.to, place or run.tracking) as follower:
                follower.advance()
        except (RunError, TrackerError) as error:
            status = go_on_after(error, has_others=run is not runs[-1])
            continue
        show(follower, spec, as_json=as_json)
    sys.exit(status)


@click.command("track-beside", hidden=True)
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path))
def track_beside(path: Path) -> None:
    """Follow RUN, or the trials of a sweep, for the tracker of the spec, while what has started this one runs."""
    is_alive, environ = same_parent(), current_environment()
    if (sweep := SweepDirectory(path.absolute())).exists:
        follow_all([], [TrialFollowing(sweep, lambda run: requested(run, {}), environ)], as_json=False)
        click.echo(f"{counted(len(begun_trials(sweep)), 'trial')} of {sweep.name} to the end")
        return
    run = run_beside(path, environ, is_alive)
    tracking = None if run is None else submitted_spec(run).tracking
    if run is not None and tracking is not None:
        follow_all([Following(run, tracking, environ, is_alive=is_alive)], [], as_json=False)


def follow_all(waiting: list[Following], trials: list[TrialFollowing], *, as_json: bool) -> None:
    """Follow runs, and trials as they begin, until all of them are over, and print the result of each."""
    status = 0
    try:
        while waiting or trials:
            for sweep in list(trials):
                if (begun := sweep.begun()) is None:
                    trials.remove(sweep)
                else:
                    waiting += begun
            for one in list(waiting):
                try:
                    follower = one.look()
                except (RunError, TrackerError) as error:
                    waiting.remove(one)
                    one.abandon(error)
                    status = go_on_after(error, has_others=bool(waiting or trials))
                    continue
                if follower is not None:
                    waiting.remove(one)
                    show(follower, one.spec, as_json=as_json)
            time.sleep(POLL_S if waiting or trials else 0)
    finally:
        for one in waiting:
            with contextlib.suppress(TrackerError):
                one.leave()
    if status:
        sys.exit(status)


def go_on_after(error: HpcYoloError, *, has_others: bool) -> int:
    """Print an error about one of several runs, and return its exit code.

    Raises:
        HpcYoloError: `error`, if there is no other run.
    """
    if not has_others:
        raise error
    click.echo(f"error: {error}", err=True)
    return error.exit_code


def begun_trials(sweep: SweepDirectory) -> list[RunDirectory]:
    """Return the trials of a sweep that have a journal."""
    runs = [sweep.trial(trial.name) for trial in sweep.trials()]
    return [run for run in runs if run.journal.exists()]


def job_watch(run: RunDirectory) -> Callable[[], bool]:
    """Return a function that returns whether a job of `run` waits or runs; always True for one without submissions."""
    return JobWatch(run).is_alive if all_submissions(run) else lambda: True  # torchrun starts some


def requested(run: RunDirectory, options: dict[str, str | bool | None]) -> TrackingSpec:
    """Return the section `tracking` of the run's spec, with the options of the command line on top.

    Raises:
        SpecError: neither names a tracker, or an option does not apply to it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    base: TrackingSpec | None = None
    try:
        base = submitted_spec(run).tracking
    except HpcYoloError:
        if "to" not in given:
            raise
    if base is None or given.get("to", base.to) != base.to:
        if "to" not in given:
            raise SpecError(
                f"{run.path}: its spec names no tracker", hint=f"add --to, with one of {', '.join(TRACKERS)}"
            )
        base = TrackingSpec(to=given["to"])  # type: ignore[arg-type]  # click has checked it
    spec = msgspec.structs.replace(base, **given)
    if has_password(spec.uri or ""):  # it would be shown by ps
        hint = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write ~/.mlflow/credentials"
        raise SpecError("--uri: has a password", hint=hint)
    for finding in tracking_findings(spec):
        raise SpecError(f"--{finding.field.partition('.')[2]}: {finding.message}", hint=f"allowed: {finding.allowed}")
    return spec


def show(follower: RunFollower, spec: TrackingSpec, *, as_json: bool) -> None:
    """Print what was brought to the tracker."""
    name, rows, step, location = follower.run.name, follower.num_logged, follower.last_step, follower.location
    if as_json:
        click.echo(json.dumps({"run": name, "to": spec.to, "rows": rows, "step": step, "location": location}))
    elif step is None:
        click.echo(f"{name}: no step is logged yet")
    else:
        click.echo(f"{name}: {counted(rows, 'new row')}, up to step {step}: {location}")
