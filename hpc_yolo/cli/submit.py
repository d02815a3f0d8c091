"""`hpc-yolo submit`: train a spec as a Slurm job or in processes on this machine."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cli.run_argument import known_runs
from hpc_yolo.cli.submission import (
    NOTICE_S,
    at_site,
    estimate_lines,
    notice_after,
    origin_table,
    print_warnings,
    site_decision,
    start_of,
)
from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.errors import ClusterError, NameTakenError
from hpc_yolo.launch.plan import Plan, make_plan
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.run_names import with_filled_name
from hpc_yolo.launch.submit import submit as submit_plan
from hpc_yolo.launch.weights import fetch_weights, needed_weights, with_located_weights
from hpc_yolo.runs.submissions import Submission, stage_submissions
from hpc_yolo.spec.load import LoadedSpec, Override, load_with_origins
from hpc_yolo.spec.run_name import NUMBER

BEST_OF = "best-of"


@click.command()
@spec_options()
@click.argument("sweep_path", metavar="[SWEEP]", required=False, type=click.Path(path_type=Path))
@click.option("--local", is_flag=True, help="Train on this machine even where Slurm is installed.")
@click.option("--dry-run", is_flag=True, help="Print every decision and the sbatch script; change nothing.")
@click.option("--follow", is_flag=True, help="Show progress until the job ends. Local runs are always followed.")
@click.option("--wait", is_flag=True, help="Wait silently until the job ends; the exit code is that of the job.")
@click.option("--parallel", type=click.IntRange(min=1), default=1, help="Trials of a local sweep that run at once.")
def submit(
    spec_path: Path,
    sweep_path: Path | None,
    assignments: tuple[str, ...],
    local: bool,
    dry_run: bool,
    follow: bool,
    wait: bool,
    parallel: int,
    **shortcuts: str | None,
) -> None:
    """Train SPEC: as a Slurm job where Slurm is installed, otherwise in processes on this machine.

    Submitting a spec again resumes its run from the last checkpoint. With a pattern in its name, such as run-{n}, each
    submission is a new run; hpc-yolo resume continues one. Of a finished run only stages (then) that have failed or
    were lost are submitted again. A spec with a sweep becomes an array of jobs, one for each trial; submitted again,
    trials that are new or have not finished start.

    hpc-yolo submit best-of SWEEP writes a spec of the best trial, <name>-best.yaml, and submits it; --set changes it.
    """
    overrides = read_overrides(assignments, shortcuts)
    overrides += [Override("cluster.executor", "local", "--local")] if local else []
    loaded = load_with_origins(spec_file(spec_path, sweep_path, dry_run=dry_run), overrides, site_lookup())
    if loaded.spec.sweep is None:
        submit_run(loaded, dry_run=dry_run, follow=follow, wait=wait)
        return

    from hpc_yolo.cli.submit_sweep import submit_trials  # which few submissions need

    submit_trials(loaded, dry_run=dry_run, follow=follow, wait=wait, parallel=parallel)


def spec_file(spec_path: Path, sweep_path: Path | None, *, dry_run: bool) -> Path:
    """Return the spec to submit: `spec_path`, or that of the best trial of a sweep, which is written here.

    Raises:
        click.UsageError: two specs are named, or best-of no sweep.
        RunError: no trial has been evaluated yet, or the file of its spec exists.
    """
    if (str(spec_path) == BEST_OF) != (sweep_path is not None):
        raise click.UsageError(f"write one SPEC, or {BEST_OF} SWEEP")
    if sweep_path is None:
        return spec_path

    from hpc_yolo.cli.sweep import write_best_spec

    context = click.get_current_context()
    directory = context.with_resource(tempfile.TemporaryDirectory()) if dry_run else "."
    return write_best_spec(sweep_path, Path(directory))


def submit_run(loaded: LoadedSpec, *, dry_run: bool, follow: bool, wait: bool) -> None:
    """Submit the run of `loaded`, or print what a submission would do.

    Raises:
        NameTakenError: another command has created the run meanwhile, and its name has no number.
    """
    while True:
        try:
            _submit_run(loaded, dry_run=dry_run, follow=follow, wait=wait)
            return
        except NameTakenError as taken:
            if NUMBER not in loaded.spec.name:
                raise
            click.echo(f"{taken.message}; the next free number follows", err=True)


def _submit_run(loaded: LoadedSpec, *, dry_run: bool, follow: bool, wait: bool) -> None:
    plan, slurm = at_site(make_plan(with_filled_name(with_located_weights(loaded.spec))), dry_run=dry_run)
    is_available = slurm is None or slurm.available
    if plan.spec.then:
        from hpc_yolo.cli import stages  # with what it needs 20 ms, of no use without stages

        if is_available and stages.submit_remaining(plan, dry_run=dry_run):
            return
    warnings = preflight(
        plan.spec, plan.run, for_slurm=plan.uses_slurm, slurm_answers=is_available, settings=plan.settings
    )
    estimate = estimate_lines(plan, known_runs, asks_start=not dry_run)
    for what, decision in (*site_decision(loaded), *plan.decisions(), *estimate.lines):
        click.echo(f"{what:14} {decision}")
    print_warnings([*warnings, *estimate.warnings])
    if not dry_run:
        carry_out(plan, follow=follow, wait=wait)
    elif slurm is not None:
        start, is_refused = start_of(plan) if is_available else (f"not known: {slurm.reason}", False)
        table = origin_table(plan, loaded)
        click.echo(f"{'start':14} {start}\n\n{table}\n\n{plan.script}", nl=False)
        if plan.spec.then:
            stages.print_scripts(plan)
        sys.exit(ClusterError.exit_code if is_refused else 0)


def carry_out(plan: Plan, *, follow: bool, wait: bool) -> None:
    """Submit `plan`; follow a local run, or any with `follow` or `wait`, and exit with its exit code."""
    fetch_with_progress(needed_weights(plan.spec, plan.run))
    notice = notice_after(NOTICE_S, "waiting for sbatch; Ctrl-C gives up")
    with notice if plan.uses_slurm else contextlib.nullcontext():
        submission = submit_plan(plan)
    if plan.uses_slurm and not (follow or wait):
        stages = "".join(f", stage {stage.stage} as job {stage.job_id}" for stage in stage_submissions(plan.run))
        click.echo(
            f"queued as job {submission.job_id}{stages}\n"
            f"  follow it:   hpc-yolo follow {plan.run.word}\n"
            f"  all runs:    hpc-yolo status --root {shlex.quote(str(plan.run.path.parent))}\n"
            f"  its output:  tail -F {shlex.quote(str(plan.run.jobs / f'{submission.job_id}.log'))}"
        )
        return

    from hpc_yolo.monitor.follow import follow as follow_run  # imports rich

    try:
        with messages(plan, submission), tracker(plan, submission):
            watch = JobWatch(plan.run, owned=True)
            status = follow_run(plan.run, watch, since=submission.time, quiet=wait and not follow)
    finally:
        if plan.spec.then and not plan.uses_slurm:
            run_stages(plan)
    sys.exit(status)


@contextlib.contextmanager
def messages(plan: Plan, submission: Submission) -> Iterator[None]:
    """Send the messages (notify) of a run that is followed: of a local run all, of a job those that it could not."""
    notify = plan.spec.notify
    if notify is None:
        yield
        return

    from hpc_yolo.cli import notices  # 20 ms, of no use without messages

    if plan.uses_slurm:
        try:
            yield
        finally:
            notices.followed_messages(plan.run, notify)
    else:
        with notices.local_messages(plan.run, plan.spec, notify, submission.job_id):
            yield


@contextlib.contextmanager
def tracker(plan: Plan, submission: Submission) -> Iterator[None]:
    """Bring a run that is followed to its tracker, where this command is to start it."""
    tracking = plan.spec.tracking
    if tracking is None or (plan.uses_slurm and tracking.where == "job"):
        yield
        return

    from hpc_yolo.cli.notices import local_environment
    from hpc_yolo.cli.tracker_process import tracker_process  # of no use without a tracker
    from hpc_yolo.tracking.following import has_ended

    environ = current_environment() if plan.uses_slurm else local_environment(plan.spec)
    with tracker_process(plan.run, tracking, environ, lambda: has_ended(plan.run, submission.time)):
        yield


def run_stages(plan: Plan) -> None:
    """Run the stages that follow the end of a run on this machine."""
    from hpc_yolo.launch.stages_alone import run_stages_here  # 20 ms

    run_stages_here(plan)
    if plan.spec.notify is not None:
        from hpc_yolo.cli import notices

        notices.local_stage_messages(plan.run, plan.spec, plan.spec.notify)


def fetch_with_progress(weights: str) -> None:
    """Download the published file `weights` with a progress bar, unless it is in the cache."""
    if not weights:
        return

    from hpc_yolo.monitor.progress import counting_bytes  # imports rich

    with counting_bytes(Path(weights).name) as on_progress:
        fetch_weights(weights, on_progress)
