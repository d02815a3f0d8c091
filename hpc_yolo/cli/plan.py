"""`hpc-yolo plan`: what a run will take, what to request, and when Slurm would start it."""

from __future__ import annotations

import contextlib
import json
import sys
from functools import partial
from pathlib import Path

import click
import msgspec

from hpc_yolo.cli.forecast_lines import forecast_lines, way_rows
from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cli.run_argument import known_runs
from hpc_yolo.cli.submission import at_site, print_warnings
from hpc_yolo.cli.submit import fetch_with_progress
from hpc_yolo.cluster.start_estimates import Way, WayStart
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.errors import ClusterError, HpcYoloError, RunError
from hpc_yolo.core.units import format_time
from hpc_yolo.launch.ask_queue import SiteLimits, ask_queue, site_limits, waiting_jobs
from hpc_yolo.launch.forecast import Forecast, make_forecast
from hpc_yolo.launch.plan import Plan, make_plan
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.run_names import with_filled_name
from hpc_yolo.launch.weights import with_located_weights
from hpc_yolo.monitor.progress import counting
from hpc_yolo.spec.load import LoadedSpec, Override, load_with_origins
from hpc_yolo.spec.schema import Spec

NO_RUNS = "no run of yours has measured this model with this image size on such GPUs"
NO_RUNS_HINT = "hpc-yolo plan {spec} --probe trains it for two minutes first; or submit it, and plan again later"


@click.command()
@spec_options()
@click.option("--epochs", type=click.IntRange(min=1), help="Plan for so many epochs. [train.epochs]")
@click.option("--local", is_flag=True, help="Plan for this machine even where Slurm is installed.")
@click.option(
    "--probe", is_flag=True, help="If no run was measured, train for two minutes first, as the spec requests."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.option("--no-queue", is_flag=True, help="Do not ask Slurm when the job would start.")
def plan(
    spec_path: Path,
    assignments: tuple[str, ...],
    epochs: int | None,
    local: bool,
    probe: bool,
    as_json: bool,
    no_queue: bool,
    **shortcuts: str | None,
) -> None:
    """Estimate what training SPEC takes: wall time, GPU hours, attempts; and when Slurm would start it.

    The times are those of the run of SPEC, or of your other runs with the same model, image size and GPUs: epochs,
    evaluations, saves and starts in their journals. Other numbers of images and ranks are scaled. Nothing is queued
    without --probe. The range is that of fast and slow epochs.

    \b
    hpc-yolo plan spec.yaml --epochs 300        how long would 300 epochs take?
    hpc-yolo plan spec.yaml --probe             nothing was measured: train for two minutes, then plan
    hpc-yolo plan spec.yaml --time 8:00:00      how many attempts with this time limit?
    hpc-yolo plan spec.yaml --json | jq .forecast.unit_hours.expected

    Exit code: 0; 4 where Slurm would refuse the job; 6 without a run to learn from.
    """
    overrides = read_overrides(assignments, shortcuts)
    overrides += [] if epochs is None else [Override("train.epochs", str(epochs), f"--epochs {epochs}")]
    overrides += [Override("cluster.executor", "local", "--local")] if local else []
    loaded = load_with_origins(spec_path, overrides, site_lookup())
    planned, num_trials = _planned(loaded.spec)
    made, slurm = at_site(planned, dry_run=True)
    answers = slurm is not None and slurm.available
    limits = site_limits(made) if answers else SiteLimits()
    found = _forecast(spec_path, made, limits, probe=probe)
    starts, waits = list[WayStart](), waiting_jobs(made.run) if answers else []
    if answers and not no_queue:
        starts = _ask(made, found, limits, _other_gpus(spec_path, overrides, loaded))
    print_warnings([f"{problem}; Slurm refuses such a job, or keeps it waiting" for problem in limits.problems])
    if as_json:
        _print_json(found, num_trials, limits, starts, waits)
    else:
        _print(made, found, num_trials, starts, waits)
        if slurm is not None and not answers:
            click.echo(f"{'start':14} not known: {slurm.reason}")
    if limits.problems or (starts and starts[0].refusal):
        sys.exit(ClusterError.exit_code)


def _forecast(spec_path: Path, made: Plan, limits: SiteLimits, *, probe: bool) -> Forecast:
    """Return the forecast of `made`; with `probe`, from a probe where no run was measured."""
    forecast = partial(make_forecast, made, default_s=limits.default_s, longest_s=limits.longest_s)
    found = forecast(known_runs, counts_images=not probe)
    if found is None and not probe:
        raise RunError(f"{spec_path}: {NO_RUNS}", hint=NO_RUNS_HINT.format(spec=spec_path))
    if found is not None:
        return found

    from hpc_yolo.launch.probe import directory_beside, probe_spec, run_probe  # which few plans need

    with directory_beside(made.spec) as directory:
        planned, _ = at_site(make_plan(probe_spec(made.spec, directory)), dry_run=False)
        fetch_with_progress(planned.spec.weights)
        print_warnings(preflight(planned.spec, planned.run, for_slurm=planned.uses_slurm, settings=planned.settings))
        run = run_probe(planned, lambda sentence: click.echo(sentence, err=True))
        found = forecast(lambda: [run])
    if found is None:
        raise RunError("the probe ended before it had logged steps twice", hint="submit the spec, and plan again")
    return found


def _ask(made: Plan, found: Forecast, limits: SiteLimits, other_gpus: list[Way]) -> list[WayStart]:
    """Return when Slurm would start the job for each way to ask, with a bar that shows the progress."""
    time = None if found.suggested is None else format_time(found.suggested.seconds)
    with counting("asking Slurm when it would start", None) as on_progress:
        return ask_queue(made, limits, time=time, other_gpus=other_gpus, on_progress=on_progress)


def _print_json(found: Forecast, num_trials: int, limits: SiteLimits, starts: list[WayStart], waits: list[str]) -> None:
    ways = [{"request": one.way.text, "start": one.start, "nodes": one.nodes, "refusal": one.refusal} for one in starts]
    values = {"forecast": found, "num_trials": num_trials, "ways": ways, "waits": waits, "problems": limits.problems}
    click.echo(json.dumps(msgspec.to_builtins(values), indent=2))


def _print(made: Plan, found: Forecast, num_trials: int, starts: list[WayStart], waits: list[str]) -> None:
    for what, text in forecast_lines(made, found, num_trials):
        click.echo(f"{what:14} {text}")
    for sentence in waits:
        click.echo(f"{'waits now':14} {sentence}")
    for line in way_rows(made, found, starts):
        click.echo(line)


def _planned(spec: Spec) -> tuple[Plan, int]:
    """Return the plan of the job of `spec`, and how many such jobs start: 1, or the trials of its sweep."""
    spec = with_located_weights(spec)
    if spec.sweep is None:
        return make_plan(with_filled_name(spec)), 1

    from hpc_yolo.launch.sweep import plan_sweep  # which few plans need

    sweep = plan_sweep(spec)
    return sweep.job, len(sweep.to_start)


def _other_gpus(spec_path: Path, overrides: list[Override], loaded: LoadedSpec) -> list[Way]:
    """Return a request for each other type of GPU in the site profile that fits the spec."""
    own = loaded.spec.cluster.gpu
    ways = []
    for name in loaded.site.gpus if loaded.site is not None and own is not None else ():
        option = f"--set cluster.gpu={name}"
        with contextlib.suppress(HpcYoloError):  # one that the spec does not fit is no way to ask
            spec = load_with_origins(spec_path, [*overrides, Override("cluster.gpu", name, option)], site_lookup()).spec
            script = make_plan(with_filled_name(with_located_weights(spec))).script
            if name != own and script is not None:
                ways.append(Way((option,), spec.cluster.nodes, script))
    return ways
