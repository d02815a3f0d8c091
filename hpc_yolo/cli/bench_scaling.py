"""`hpc-yolo bench scaling`: train a spec with 1, 2, 4, 8 … ranks, and print how it scales."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec
from rich.table import Table

from hpc_yolo.bench.scaling import Scaling, scaling_row, scaling_table
from hpc_yolo.cli.options import NumberRange, read_overrides, spec_options
from hpc_yolo.cli.submission import at_site, print_warnings
from hpc_yolo.cli.submit import fetch_with_progress
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.units import counted, short_bytes
from hpc_yolo.launch.plan import Plan, choose_executor, make_plan
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.run_names import with_filled_name
from hpc_yolo.launch.weights import with_located_weights
from hpc_yolo.monitor.console import data_console
from hpc_yolo.runs.journal import read_events
from hpc_yolo.spec.load import Override, load_spec
from hpc_yolo.spec.schema import Spec

PIPE_COLUMNS = 160
GIGA = 1e9
MIN_EPOCHS = 2


@click.command(short_help="Train a spec on 1, 2, 4, 8 … GPUs or CPU ranks.")
@spec_options()
@click.option("--ranks", metavar="N,N,...", help="Numbers of ranks. [default: powers of two up to those of SPEC]")
@click.option("--epochs", type=click.IntRange(min=MIN_EPOCHS), default=3, show_default=True, help="Epochs of each run.")
@click.option("--same-batch", is_flag=True, help="Keep the images of a step, instead of those of each rank.")
@click.option("--bandwidth", type=NumberRange(min=0, min_open=True), metavar="GB/S", help="Between two ranks.")
@click.option("--local", is_flag=True, help="Train on this machine even where Slurm is installed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def scaling(
    spec_path: Path,
    assignments: tuple[str, ...],
    ranks: str | None,
    epochs: int,
    same_batch: bool,
    bandwidth: float | None,
    local: bool,
    as_json: bool,
    **shortcuts: str | None,
) -> None:
    """Train SPEC with 1, 2, 4, 8 … GPUs, or CPU ranks, for a few epochs each, and print how it scales.

    The runs are submitted as any run, into <output>/<name>-scaling/: as Slurm jobs at once, on this machine one after
    another. Each rank has as many images as in SPEC. Called again, runs that have finished are not trained again;
    with other conditions (epochs, threads ...) it is refused.

    Epochs are medians without the first. ideal: images a second of the fewest ranks, in proportion. communication: what
    a step takes more than with the fewest ranks, waits for images left out; it contains waits for slower ranks.
    With --bandwidth, limit: the step of the fewest ranks and a ring all-reduce of the gradients, not overlapped.

    \b
    hpc-yolo bench scaling spec.yaml                        up to the ranks of the spec
    hpc-yolo bench scaling spec.yaml --nodes 4 --bandwidth 25
    hpc-yolo bench scaling configs/quickstart.yaml --local --ranks 1,2
    """
    overrides = read_overrides(assignments, shortcuts)
    overrides += [Override("cluster.executor", "local", "--local")] if local else []
    spec = with_filled_name(with_located_weights(load_spec(spec_path, overrides, site_lookup())))
    plans = _plans(spec, _numbers(ranks, spec), epochs=epochs, same_batch=same_batch)
    fetch_with_progress(spec.weights)
    for plan in plans:
        checked = preflight(plan.spec, plan.run, for_slurm=plan.uses_slurm, settings=plan.settings)
        print_warnings(checked if plan is plans[0] else [])

    from hpc_yolo.bench.scaling_runs import run_all

    run_all(plans, lambda sentence: click.echo(sentence, err=True))
    table = _table_of(spec, plans, bandwidth)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins([_values(one) for one in table]), indent=2))
    else:
        _print(_rendered(table), _notes(plans[0], table, bandwidth))


def _print(table: Table, notes: Iterable[str]) -> None:
    console = data_console(pipe_columns=PIPE_COLUMNS)
    console.print(table, soft_wrap=True)
    for note in notes:
        click.echo(note)


def _numbers(written: str | None, spec: Spec) -> list[int]:
    """Return the numbers of ranks of --ranks.

    Raises:
        click.UsageError: they are no numbers.
    """
    if written is None:
        from hpc_yolo.bench.scaling_runs import usual_ranks

        return usual_ranks(spec)
    texts = written.split(",")
    if not all(text.isdecimal() and int(text) > 0 for text in texts):
        raise click.UsageError(f"--ranks {written}: must be numbers with commas between them, such as 1,2,4")
    return sorted({int(text) for text in texts})


def _plans(spec: Spec, numbers: list[int], *, epochs: int, same_batch: bool) -> list[Plan]:
    """Return the plans of the runs.

    Raises:
        SpecError: a number of ranks does not fill nodes, or does not fit this machine.
        RunError: an earlier call measured one of them under other conditions.
    """
    from hpc_yolo.bench.scaling_runs import require_ranks, require_same_conditions, scaled_spec

    is_local = choose_executor(spec.cluster.executor)[0] != "slurm"
    plans = []
    for ranks in numbers:
        scaled = scaled_spec(
            spec, ranks, epochs=epochs, is_local=is_local, same_batch=same_batch, most_ranks=numbers[-1]
        )
        plan = make_plan(scaled)
        require_ranks(plan, ranks)
        require_same_conditions(plan)
        plans.append(at_site(plan, dry_run=False)[0])
    return plans


def _table_of(spec: Spec, plans: list[Plan], bandwidth: float | None) -> list[Scaling]:
    from hpc_yolo.models.complexity import complexity  # imports torch

    rows = [scaling_row(read_events(plan.run.journal)) for plan in plans]
    found = [row for row in rows if row is not None]
    if len(found) < len(rows):
        raise RunError(f"{plans[0].run.path.parent}: a run has no whole epoch", hint="remove it, and call this again")
    num_parameters = complexity(spec.model_source, 80).num_parameters
    return scaling_table(found, num_parameters, None if bandwidth is None else bandwidth * GIGA)


def _values(one: Scaling) -> dict[str, object]:
    values: dict[str, object] = msgspec.to_builtins(one)
    return values | {"images_per_s": one.row.images_per_s}


def _rendered(table: list[Scaling]) -> Table:
    is_gpu = table[0].row.device.startswith("cuda")
    shown = Table()
    headings = ("GPUs" if is_gpu else "ranks", "batch", "CUDA_mem" if is_gpu else "memory", "train", "val", "img/s")
    limits = ["limit"] if table[0].limit_images_per_s is not None else []
    for heading in (*headings, "ideal", "efficiency", "communication", "data wait", "validation", *limits):
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in table:
        row = one.row
        limit = [] if one.limit_images_per_s is None else [f"{one.limit_images_per_s:,.1f}"]
        shown.add_row(
            *(str(row.ranks), str(row.batch), short_bytes(row.mem_bytes), _clock(row.train_s)),
            *("-" if row.val_s is None else _clock(row.val_s), f"{row.images_per_s:,.1f}"),
            *(f"{one.ideal_images_per_s:,.1f}", _percent(one.efficiency), _percent(one.communication)),
            *(_percent(one.data_wait), _percent(one.validation), *limit),
        )
    return shown


def _notes(plan: Plan, table: list[Scaling], bandwidth: float | None) -> list[str]:
    row = table[-1].row
    epochs = counted(row.num_epochs, "epoch")
    notes = [
        f"train, val: mm:ss of an epoch, medians of {epochs} of {counted(row.num_images, 'image')} on {row.device}"
    ]
    if table[-1].ring_bytes:
        ring = f"a ring all-reduce sends {short_bytes(table[-1].ring_bytes)} of gradients from each rank at every step"
        notes.append(ring + ("" if bandwidth else "; --bandwidth GB/S adds the limit that follows"))
    threads = plan.spec.cluster.env.get("OMP_NUM_THREADS")
    if not plan.uses_slurm and not plan.gpus_per_node and threads is not None:
        notes.append(f"each rank loads its own images, with OMP_NUM_THREADS={threads}")
    return notes


def _clock(seconds: float) -> str:
    """Return minutes and seconds, of short times with a tenth."""
    return f"{seconds // 60:.0f}:{seconds % 60:04.1f}" if seconds < 600 else f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
