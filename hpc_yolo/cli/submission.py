"""What commands that submit share: the decisions of a dry run, when Slurm would start a job, notices about waiting."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from hpc_yolo.cli.run_argument import user_state_directory
from hpc_yolo.cluster import scheduler, site, slurm_command
from hpc_yolo.cluster.sbatch_variables import REQUESTS
from hpc_yolo.cluster.script_origins import line_origins
from hpc_yolo.cluster.site import SiteSettings
from hpc_yolo.cluster.slurm_command import Run
from hpc_yolo.cluster.slurm_output import SchedulerProbe
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.launch.input_warning import input_warnings
from hpc_yolo.launch.plan import Plan, plan_at_site
from hpc_yolo.runs.directory import RunDirectory, find_runs
from hpc_yolo.spec.load import LoadedSpec
from hpc_yolo.spec.problems import Location
from hpc_yolo.spec.site_files import NO_SITE

NOTICE_S = 2.0
START_TIMEOUT_S = 2.0  # for an estimate that nobody has asked for
MAX_READ = 10  # journals, for an estimate that nobody has asked for
ORIGIN_WIDTH = 72


def at_site(plan: Plan, *, dry_run: bool) -> tuple[Plan, SchedulerProbe | None]:
    """Return `plan` with what depends on Slurm's settings, and whether Slurm answers where a dry run has asked.

    Raises:
        SchedulerUnavailable: Slurm does not answer, and it is no dry run.
    """
    if not plan.uses_slurm:
        return plan, None
    run = slurm_command.on_cluster(plan.spec.cluster.slurm_cluster)
    if dry_run:
        slurm = scheduler.probe(run=run)
        return (plan_at_site(plan, site_settings(run)) if slurm.available else plan), slurm
    with notice_after(NOTICE_S, "waiting for scontrol; Ctrl-C gives up"):  # a login node may be busy
        settings = site_settings(run)
        if settings is None:
            scheduler.require_available(run=run)
    return plan_at_site(plan, settings), None


def site_settings(run: Run) -> SiteSettings | None:
    """Return the settings of the site; None where Slurm does not answer."""
    with contextlib.suppress(ClusterError):
        return site.site_settings(run=run)
    return None


def site_decision(loaded: LoadedSpec) -> list[tuple[str, str]]:
    """Return the line of a dry run about the site profile; none where no profile applies."""
    site, named = loaded.site, loaded.spec.site
    if site is not None:
        is_open = loaded.spec.cluster.gpu is None and loaded.spec.cluster.gpus_per_node > 0 and site.gpus
        rows = f"; cluster.gpu is not set, there are {', '.join(site.gpus)}" if is_open else ""
        return [("site", f"{site.name}: {site.why}, {site.path}{rows}")]
    return [] if named in (None, NO_SITE) else [("site", f"{named}: not used, as this is no Slurm job")]


def origin_table(plan: Plan, loaded: LoadedSpec) -> str:
    """Return the origin of each line of the script of `plan`.

    It is a line of the spec or of the site profile, an option, a variable of the shell, or a default.
    """
    assert plan.script is not None
    requests = {f"cluster.{field}": Location(name) for field, name in REQUESTS.items() if name in plan.variables}
    rows = line_origins(plan.script, plan.spec.cluster, loaded.origins | requests)
    width = min(max(len(line) for line, _ in rows), ORIGIN_WIDTH)
    shown = (line if len(line) <= width else f"{line[: width - 1]}…" for line, _ in rows)
    return "\n".join(f"{line:{width}}  <- {origin}" for line, (_, origin) in zip(shown, rows, strict=True))


def print_warnings(warnings: Sequence[str]) -> None:
    """Print `warnings` to standard error, a line each."""
    for warning in warnings:
        click.echo(click.style("warning: ", fg="yellow", bold=True) + warning, err=True)


class Estimated(NamedTuple):
    """Lines of a submission about time and attempts, and warnings about the rate of its images."""

    lines: list[tuple[str, str]]
    warnings: list[str]


def estimate_lines(
    plan: Plan, known: Callable[[], Iterable[RunDirectory]], *, asks_start: bool, num_trials: int = 1
) -> Estimated:
    """Return what is known about time and attempts, and about the rate of the images; nothing without measurements.

    Args:
        known: returns the runs to learn from besides that of `plan`.
        asks_start: add when Slurm would start the job, if it answers at once.
        num_trials: of a sweep, that start; `plan` is that of one.
    """
    try:
        runs = [*known(), *find_runs(Path(plan.spec.output))]
        found = waited = None
        lines: list[tuple[str, str]] = []
        if runs:
            from hpc_yolo.cli.forecast_lines import summary_lines  # with what it needs 5 ms, of no use without runs
            from hpc_yolo.launch.forecast import make_forecast

            found = make_forecast(plan, lambda: runs, counts_images=False, max_read=MAX_READ)
        if found is not None:
            lines += summary_lines(plan, found, num_trials)
            waited = None if found.data_wait is None else (found.learned_from[0].name, found.data_wait)
        warnings = input_warnings(plan, waited, user_state_directory())
    except Exception:  # whatever is wrong with an old run, it must not stop a submission
        return Estimated([], [])
    if lines and asks_start and plan.uses_slurm:
        lines.append(("start", start_of(plan, timeout_s=START_TIMEOUT_S)[0]))
    return Estimated(lines, warnings)


def start_of(plan: Plan, *, timeout_s: float = scheduler.CHANGE_TIMEOUT_S) -> tuple[str, bool]:
    """Return (when Slurm would start the job of `plan`, whether Slurm would refuse it). Nothing is queued."""
    assert plan.script is not None
    try:
        sbatch = slurm_command.with_sbatch_variables(plan.variables)
        estimate = scheduler.estimate_start(plan.script, plan.sbatch_options, timeout_s=timeout_s, run=sbatch)
    except SchedulerUnavailable as error:
        return f"not known: {error.message}", False
    except ClusterError as error:
        return f"Slurm refuses the job: {error.message}", True
    nodes = f" on {estimate.nodes}" if estimate.nodes else ""
    return f"at {estimate.start or 'an unknown time'}{nodes}, as estimated by Slurm", False


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
