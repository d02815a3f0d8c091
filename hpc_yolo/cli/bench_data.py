"""`hpc-yolo bench data`: images a second of one core; for a spec, of all its loaders beside its GPUs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from hpc_yolo.cli.bench_output import carry_out, measuring
from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cli.run_argument import user_state_directory
from hpc_yolo.cli.submission import at_site
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.units import counted
from hpc_yolo.forecast.input_rate import (
    InputRate,
    add_rate,
    input_images_per_s,
    input_warning,
    is_in_memory,
    known_images_per_s,
    loaders_per_rank,
)
from hpc_yolo.launch.input_warning import cores_per_rank, node_bytes, spec_as_run
from hpc_yolo.launch.plan import Plan, make_plan, require_no_sweep
from hpc_yolo.launch.run_names import with_filled_name
from hpc_yolo.launch.weights import with_located_weights
from hpc_yolo.monitor.progress import counting
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import load_spec

# What train.cache: auto does with the decoded images.
CACHED = {True: ", in memory", False: ", from files", None: ", from files; more if it finds room in memory"}


@click.command(short_help="Training and validation images a second of one core; whether input feeds the GPUs of SPEC.")
@spec_options(required=False)
@measuring
def data(
    spec_path: Path | None,
    assignments: tuple[str, ...],
    quick: bool,
    num_rounds: int | None,
    directory: Path | None,
    as_json: bool,
    **shortcuts: str | None,
) -> None:
    """Measure training and validation images a second of one core, on drawn images; or with SPEC, on its own.

    With SPEC: the processor time of a training image of its dataset, with its image size and hyperparameters, on one
    core of this machine; then how many images a second its loaders give on all ranks, and whether that feeds the GPUs,
    as far as their speed is known. submit warns from what was measured here where input is too slow. --quick, --rounds
    and --save are for the drawn images.

    \b
    hpc-yolo bench data                                 drawn images, over plain OpenCV
    hpc-yolo bench data spec.yaml                       on a node of the cluster, best: its cores count
    hpc-yolo bench data spec.yaml --set cluster.cpus_per_task=16 --set train.workers=16
    """
    overrides = read_overrides(assignments, shortcuts)
    if spec_path is None:
        if overrides:
            raise click.UsageError("options change a spec, and there is none: hpc-yolo bench data SPEC ...")
        carry_out(["data"], quick=quick, num_rounds=num_rounds, directory=directory, as_json=as_json)
        return
    if quick or num_rounds or directory:
        raise click.UsageError("--quick, --rounds and --save are for the drawn images, without SPEC")
    spec = with_filled_name(with_located_weights(load_spec(spec_path, overrides, site_lookup())))
    require_no_sweep(spec)
    run = RunDirectory(Path(spec.output).absolute() / spec.name)  # nothing is submitted: it may have another spec
    plan, _ = at_site(make_plan(spec, run=run), dry_run=True)

    from hpc_yolo.bench.input import measure_input  # imports torch

    with counting("reading train images", None) as on_progress:
        rate = measure_input(spec_as_run(plan), on_progress)
    _keep(rate)
    if as_json:
        click.echo(json.dumps(values_of(plan, rate), indent=2))
    else:
        for what, text in lines_of(plan, rate):
            click.echo(f"{what:14} {text}")


def _keep(rate: InputRate) -> None:
    """Add `rate` to the measurements of the user.

    Raises:
        RunError: the state directory is not writable.
    """
    try:
        add_rate(user_state_directory(), rate)
    except OSError as error:
        raise RunError(f"{user_state_directory()}: cannot be written: {error.strerror}") from error


def values_of(plan: Plan, rate: InputRate) -> dict[str, object]:
    """Return what was measured and what follows from it, for scripts."""
    cores, memory_bytes, spec = cores_per_rank(plan), node_bytes(plan), spec_as_run(plan)
    return {
        **msgspec.to_builtins(rate),
        "loaders_per_rank": loaders_per_rank(spec, cores),
        "input_images_per_s": input_images_per_s(rate, spec, plan.world_size, cores, memory_bytes),
        "is_in_memory": is_in_memory(spec, rate, memory_bytes),
        "gpu_images_per_s": known_images_per_s(spec, plan.world_size),
        "warning": input_warning(rate, spec, plan.world_size, cores, memory_bytes),
    }


def lines_of(plan: Plan, rate: InputRate) -> Iterator[tuple[str, str]]:
    """Yield (subject, text) of what was measured and what follows from it."""
    cores, memory_bytes, spec = cores_per_rank(plan), node_bytes(plan), spec_as_run(plan)
    loaders = loaders_per_rank(spec, cores)
    rest = "; GPUs augment them" if rate.augment_device == "gpu" else ""
    rates = f"{1 / rate.files_s:,.0f} images/s from files, {1 / rate.memory_s:,.0f} from memory"
    yield "one core", f"{rates}, {rate.cpu}{rest}"
    whose = f"{loaders} loader processes" if loaders != 1 else "1 loader process"
    each = (
        f"{whose} on each of {counted(plan.world_size, 'rank')}"
        if loaders
        else "the tasks load the images beside training"
    )
    given = input_images_per_s(rate, spec, plan.world_size, cores, memory_bytes)
    cached = CACHED[is_in_memory(spec, rate, memory_bytes)] if spec.train.cache == "auto" else ""
    yield "input", f"{given:,.0f} images/s: {each}, train.cache {spec.train.cache}{cached}"
    demand = known_images_per_s(spec, plan.world_size)
    if demand is None:
        yield "GPUs", "their speed with this model is not known here; a run of yours shows its waits: hpc-yolo status"
    else:
        yield "GPUs", f"can train {demand:,.0f} images/s: {100 * min(given / demand, 1):.0f} % of that is fed"
    warning = input_warning(rate, spec, plan.world_size, cores, memory_bytes)
    if warning is not None:
        yield "warning", warning.removeprefix("input: ")
