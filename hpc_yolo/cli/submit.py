"""`hpc-yolo submit`: the one command that most people need."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cli.weights import download_progress
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.spec.load import Override, load_spec

if TYPE_CHECKING:
    from hpc_yolo.launch.plan import Plan


NOTICE_S = 2.0


@click.command()
@spec_options()
@click.option("--local", is_flag=True, help="Train on this machine even where there is Slurm.")
@click.option("--dry-run", is_flag=True, help="Print every decision and the sbatch script; touch nothing.")
@click.option("--follow", is_flag=True, help="Show the job's progress until it ends. Local runs are always followed.")
@click.option("--wait", is_flag=True, help="Wait for the job's end in silence; its success is the exit code.")
def submit(
    spec_path: Path,
    assignments: tuple[str, ...],
    local: bool,
    dry_run: bool,
    follow: bool,
    wait: bool,
    **shortcuts: str | None,
) -> None:
    """Train what SPEC says: as a Slurm job where there is Slurm, else in processes on this machine.

    Submitting a spec again goes on with its run from the last checkpoint.
    """
    from hpc_yolo.cluster import scheduler, slurm_command
    from hpc_yolo.launch.plan import make_plan, plan_at_site
    from hpc_yolo.launch.preflight import preflight
    from hpc_yolo.launch.weights import with_located_weights

    overrides = read_overrides(assignments, shortcuts)
    if local:
        overrides.append(Override("cluster.executor", "local", "--local"))
    plan = make_plan(with_located_weights(load_spec(spec_path, overrides)))
    uses_slurm = plan.uses_slurm
    there = slurm_command.on_cluster(plan.spec.cluster.slurm_cluster)
    if uses_slurm and not dry_run:
        scheduler.require_available(run=there)
    slurm = scheduler.probe(run=there) if uses_slurm and dry_run else None
    answers = slurm is None or slurm.available
    if uses_slurm and answers:
        plan = plan_at_site(plan)
    warnings = preflight(plan.spec, plan.run, for_slurm=uses_slurm, slurm_answers=answers)
    for what, decision in plan.decisions():
        click.echo(f"{what:14} {decision}")
    for warning in warnings:
        click.echo(click.style("warning: ", fg="yellow", bold=True) + warning, err=True)
    if not dry_run:
        carry_out(plan, follow=follow, wait=wait)
    elif slurm is not None:
        start, is_refused = start_of(plan) if answers else (f"not known: {slurm.reason}", False)
        click.echo(f"{'start':14} {start}\n\n{plan.script}", nl=False)
        sys.exit(ClusterError.exit_code if is_refused else 0)


def start_of(plan: Plan) -> tuple[str, bool]:
    """Return (when Slurm would start the job of `plan`, in a few words; whether it would refuse it). Queue nothing."""
    from hpc_yolo.cluster import slurm_command
    from hpc_yolo.launch.partition_checks import estimate_start

    assert plan.script is not None
    try:
        sbatch = slurm_command.with_sbatch_variables(plan.variables)
        estimate = estimate_start(plan.script, plan.sbatch_options, run=sbatch)
    except SchedulerUnavailable as error:
        return f"not known: {error.message}", False
    except ClusterError as refusal:
        return f"refused as it is: {refusal.message}", True
    where = f" on {estimate.nodes}" if estimate.nodes else ""
    return f"at {estimate.start or 'a time that is not known'}{where}, says Slurm", False


def carry_out(plan: Plan, *, follow: bool, wait: bool) -> None:
    """Hand `plan` over and, for a local run or when asked, follow it to its end, which is then the exit code."""
    from hpc_yolo.cluster.jobs import JobWatch
    from hpc_yolo.launch.submit import submit as submit_plan
    from hpc_yolo.monitor.follow import follow as follow_run

    fetch_with_progress(plan.spec.weights)
    notice = notice_after(NOTICE_S, "waiting for sbatch; Ctrl-C gives up")
    with notice if plan.uses_slurm else contextlib.nullcontext():
        submission = submit_plan(plan)
    if plan.uses_slurm and not (follow or wait):
        click.echo(
            f"queued as job {submission.job_id}\n"
            f"  follow it:   hpc-yolo follow {plan.run.path}\n"
            f"  all runs:    hpc-yolo status --root {plan.run.path.parent}\n"
            f"  its output:  tail -F {plan.run.jobs}/{submission.job_id}.log"
        )
        return
    sys.exit(follow_run(plan.run, JobWatch(plan.run, owned=True), since=submission.time, quiet=wait and not follow))


@contextlib.contextmanager
def notice_after(seconds: float, message: str) -> Iterator[None]:
    """Print `message` to stderr if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, click.echo, args=[message], kwargs={"err": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def fetch_with_progress(weights: str) -> None:
    """Fetch the published file `weights` with a progress bar, unless it is there."""
    from hpc_yolo.launch.weights import fetch_weights

    if not weights:
        return  # a bar that never shows up leaves an empty line
    with download_progress(Path(weights).name) as on_progress:
        fetch_weights(weights, on_progress)
