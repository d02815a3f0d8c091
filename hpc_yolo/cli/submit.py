"""`hpc-yolo submit`: train a spec as a Slurm job or in processes on this machine."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cluster import scheduler, slurm_command
from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.cluster.script_origins import line_origins
from hpc_yolo.cluster.slurm_output import SchedulerProbe
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.launch.plan import Plan, make_plan, plan_at_site
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.run_names import with_filled_name
from hpc_yolo.launch.submit import submit as submit_plan
from hpc_yolo.launch.weights import fetch_weights, with_located_weights
from hpc_yolo.runs.submissions import stage_submissions
from hpc_yolo.spec.load import LoadedSpec, Override, load_with_origins
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.site_files import NO_SITE

NOTICE_S = 2.0
ORIGIN_WIDTH = 72


@click.command()
@spec_options()
@click.option("--local", is_flag=True, help="Train on this machine even where Slurm is installed.")
@click.option("--dry-run", is_flag=True, help="Print every decision and the sbatch script; change nothing.")
@click.option("--follow", is_flag=True, help="Show progress until the job ends. Local runs are always followed.")
@click.option("--wait", is_flag=True, help="Wait silently until the job ends; the exit code is that of the job.")
def submit(
    spec_path: Path,
    assignments: tuple[str, ...],
    local: bool,
    dry_run: bool,
    follow: bool,
    wait: bool,
    **shortcuts: str | None,
) -> None:
    """Train SPEC: as a Slurm job where Slurm is installed, otherwise in processes on this machine.

    Submitting a spec again resumes its run from the last checkpoint. With a pattern in its name, such as run-{n}, each
    submission is a new run; hpc-yolo resume continues one. Of a finished run only stages (then) that have failed or
    were lost are submitted again.
    """
    overrides = read_overrides(assignments, shortcuts)
    if local:
        overrides.append(Override("cluster.executor", "local", "--local"))
    loaded = load_with_origins(spec_path, overrides, site_lookup())
    plan, slurm = planned(loaded.spec, dry_run=dry_run)
    is_available = slurm is None or slurm.available
    if plan.spec.then:
        from hpc_yolo.cli import stages  # with what it needs 20 ms, of no use without stages

        if is_available and stages.submit_remaining(plan, dry_run=dry_run):
            return
    warnings = preflight(plan.spec, plan.run, for_slurm=plan.uses_slurm, slurm_answers=is_available)
    for what, decision in [*site_decision(loaded), *plan.decisions()]:
        click.echo(f"{what:14} {decision}")
    print_warnings(warnings)
    if not dry_run:
        carry_out(plan, follow=follow, wait=wait)
    elif slurm is not None:
        start, is_refused = start_of(plan) if is_available else (f"not known: {slurm.reason}", False)
        assert plan.script is not None
        table = origin_table(plan.script, plan.spec.cluster, loaded)
        click.echo(f"{'start':14} {start}\n\n{table}\n\n{plan.script}", nl=False)
        if plan.spec.then:
            stages.print_scripts(plan)
        sys.exit(ClusterError.exit_code if is_refused else 0)


def planned(spec: Spec, *, dry_run: bool) -> tuple[Plan, SchedulerProbe | None]:
    """Return the plan of a submission of `spec`, and whether Slurm answers where a dry run has asked.

    Raises:
        SchedulerUnavailable: Slurm does not answer, and it is no dry run.
    """
    plan = make_plan(with_filled_name(with_located_weights(spec)))
    if not plan.uses_slurm:
        return plan, None
    run = slurm_command.on_cluster(plan.spec.cluster.slurm_cluster)
    if dry_run:
        slurm = scheduler.probe(run=run)
        return (plan_at_site(plan) if slurm.available else plan), slurm
    with notice_after(NOTICE_S, "waiting for scontrol ping; Ctrl-C gives up"):  # a login node may be busy
        scheduler.require_available(run=run)
    return plan_at_site(plan), None


def site_decision(loaded: LoadedSpec) -> list[tuple[str, str]]:
    """Return the line of a dry run about the site profile; none where no profile applies."""
    site, named = loaded.site, loaded.spec.site
    if site is not None:
        is_open = loaded.spec.cluster.gpu is None and loaded.spec.cluster.gpus_per_node > 0 and site.gpus
        rows = f"; cluster.gpu is not set, there are {', '.join(site.gpus)}" if is_open else ""
        return [("site", f"{site.name}: {site.why}, {site.path}{rows}")]
    return [] if named in (None, NO_SITE) else [("site", f"{named}: not used, as this is no Slurm job")]


def origin_table(script: str, cluster: ClusterSpec, loaded: LoadedSpec) -> str:
    """Return the origin of each line of `script`: a line of the spec or of the site profile, an option, a default."""
    rows = line_origins(script, cluster, loaded.origins)
    width = min(max(len(line) for line, _ in rows), ORIGIN_WIDTH)
    shown = (line if len(line) <= width else f"{line[: width - 1]}…" for line, _ in rows)
    return "\n".join(f"{line:{width}}  <- {origin}" for line, (_, origin) in zip(shown, rows, strict=True))


def print_warnings(warnings: Sequence[str]) -> None:
    """Print `warnings` to standard error, a line each."""
    for warning in warnings:
        click.echo(click.style("warning: ", fg="yellow", bold=True) + warning, err=True)


def start_of(plan: Plan) -> tuple[str, bool]:
    """Return (when Slurm would start the job of `plan`, whether Slurm would refuse it). Nothing is queued."""
    assert plan.script is not None
    try:
        sbatch = slurm_command.with_sbatch_variables(plan.variables)
        estimate = scheduler.estimate_start(plan.script, plan.sbatch_options, run=sbatch)
    except SchedulerUnavailable as error:
        return f"not known: {error.message}", False
    except ClusterError as error:
        return f"Slurm refuses the job: {error.message}", True
    nodes = f" on {estimate.nodes}" if estimate.nodes else ""
    return f"at {estimate.start or 'an unknown time'}{nodes}, as estimated by Slurm", False


def carry_out(plan: Plan, *, follow: bool, wait: bool) -> None:
    """Submit `plan`; follow a local run, or any with `follow` or `wait`, and exit with its exit code."""
    fetch_with_progress(plan.spec.weights)
    notice = notice_after(NOTICE_S, "waiting for sbatch; Ctrl-C gives up")
    with notice if plan.uses_slurm else contextlib.nullcontext():
        submission = submit_plan(plan)
    if plan.uses_slurm and not (follow or wait):
        stages = "".join(f", stage {stage.stage} as job {stage.job_id}" for stage in stage_submissions(plan.run))
        click.echo(
            f"queued as job {submission.job_id}{stages}\n"
            f"  follow it:   hpc-yolo follow {plan.run.path}\n"
            f"  all runs:    hpc-yolo status --root {plan.run.path.parent}\n"
            f"  its output:  tail -F {plan.run.jobs}/{submission.job_id}.log"
        )
        return

    from hpc_yolo.monitor.follow import follow as follow_run  # imports rich

    try:
        watch = JobWatch(plan.run, owned=True)
        status = follow_run(plan.run, watch, since=submission.time, quiet=wait and not follow)
    finally:
        if plan.spec.then and not plan.uses_slurm:
            from hpc_yolo.launch.stages_alone import run_stages_here  # 20 ms

            run_stages_here(plan)
    sys.exit(status)


@contextlib.contextmanager
def notice_after(seconds: float, message: str) -> Iterator[None]:
    """Print `message` to standard error if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, click.echo, args=[message], kwargs={"err": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def fetch_with_progress(weights: str) -> None:
    """Download the published file `weights` with a progress bar, unless it is in the cache."""
    if not weights:
        return

    from hpc_yolo.monitor.progress import downloading  # imports rich

    with downloading(Path(weights).name) as on_progress:
        fetch_weights(weights, on_progress)
