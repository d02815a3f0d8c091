"""`hpc-yolo bench`: measure this package on this machine, compare records of it, and show how runs scale."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hpc_yolo.bench.compare import compare as compare_records
from hpc_yolo.bench.compare import missing
from hpc_yolo.bench.records import BenchRecord, read_record, read_records
from hpc_yolo.bench.run import BENCHMARKS
from hpc_yolo.cli.bench_data import data
from hpc_yolo.cli.bench_output import AS_JSON, carry_out, measuring
from hpc_yolo.cli.bench_scaling import scaling
from hpc_yolo.core.errors import DataError

RESULTS = Path("benchmarks") / "results"
SLOWER = 1  # exit code of compare


@click.group()
def bench() -> None:
    """Measure this package on this machine, compare such records, and show how runs scale.

    Each benchmark runs its work and a reference in turns and gives the ratio of the two, so that a busy or slow machine
    matters little. The reference runs twice in each round: the median difference is the noise floor.

    \b
    hpc-yolo bench data                      images a second of one core
    hpc-yolo bench data spec.yaml            does the input of this spec feed its GPUs?
    hpc-yolo bench all --save benchmarks/results
    hpc-yolo bench compare OLD.json NEW.json exits with 1 where something has become slower
    hpc-yolo bench chart benchmarks/results  charts over the commits there
    hpc-yolo bench scaling spec.yaml         train with 1, 2, 4, 8 ... GPUs, and print how that scales
    """


def _add_benchmark(name: str) -> None:
    @bench.command(name, short_help=BENCHMARKS[name].sentence, help=BENCHMARKS[name].sentence)
    @measuring
    def _command(quick: bool, num_rounds: int | None, directory: Path | None, as_json: bool) -> None:
        carry_out([name], quick=quick, num_rounds=num_rounds, directory=directory, as_json=as_json)


bench.add_command(data)
for _name in BENCHMARKS:
    if _name != data.name:
        _add_benchmark(_name)
bench.add_command(scaling)


@bench.command("all", short_help="Run all of these.")
@measuring
def run_all(quick: bool, num_rounds: int | None, directory: Path | None, as_json: bool) -> None:
    """Run all benchmarks on this machine: 10 minutes, with --quick 1 to 3.

    One that cannot be run is reported at the end, with exit code 6; times alone never fail.
    """
    carry_out(list(BENCHMARKS), quick=quick, num_rounds=num_rounds, directory=directory, as_json=as_json)


@bench.command(short_help="Compare two records; exit with 1 where something is slower.")
@click.argument("before_path", metavar="BEFORE", type=click.Path(path_type=Path))
@click.argument("after_path", metavar="AFTER", type=click.Path(path_type=Path))
@AS_JSON
def compare(before_path: Path, after_path: Path, as_json: bool) -> None:
    """Compare the records BEFORE and AFTER: files of --save, or beginnings of commits in benchmarks/results.

    A timing is slower or faster if the middle halves of its rounds do not overlap and the change of the median is more
    than 5 % and more than the noise floors of both. Times are ratios to the reference.

    Exit code: 1 where a timing is slower, else 0.
    """
    before, after = (read_record(record_path(path)) for path in (before_path, after_path))
    changes = compare_records(before, after)
    if not changes:
        raise DataError(f"{before_path} and {after_path} have no timing in common", hint="run the same benchmarks")
    if as_json:
        rows = [
            {
                **{"bench": one.bench, "name": one.name, "before": one.before, "after": one.after},
                **{"change": one.fraction, "noise": one.noise, "outcome": one.outcome},
            }
            for one in changes
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo(f"{'':14} {'time over the reference':36} {'before':>9} {'after':>9} {'change':>8}")
        for one in changes:
            change = f"{100 * one.fraction:+.1f} %"
            row = f"{one.bench:14} {one.name:36} {one.before:9.3f} {one.after:9.3f} {change:>8}"
            click.echo(f"{row}  {'' if one.outcome == 'same' else one.outcome}".rstrip())
        for text in missing(before, after):
            click.echo(f"only in one of them, or with other work: {text}", err=True)
    if before.machine != after.machine:
        click.echo("the machines or versions of the two records differ", err=True)
    if any(one.outcome == "slower" for one in changes):
        sys.exit(SLOWER)


@bench.command(short_help="Draw the records of a directory over commits.")
@click.argument("directory", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--output", type=click.Path(path_type=Path), default=Path("bench.png"), show_default=True)
def chart(directory: Path, output: Path) -> None:
    """Draw the records in DIRECTORY (benchmarks/results) as one PNG: a chart for each benchmark, over commits."""
    if output.exists() and not output.is_file():
        raise DataError(f"{output}: is no regular file, and would be replaced", hint="give another --output")
    records = read_records(directory)

    from hpc_yolo.bench.chart import commit_charts
    from hpc_yolo.plots.figures import write_charts  # imports matplotlib

    charts = commit_charts(records)
    if not charts:
        hint = f"hpc-yolo bench all --save {directory} measures some"
        raise DataError(f"{directory}: nothing to draw, the records there have no timings", hint=hint)
    try:
        write_charts(output, charts)
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error.strerror}", hint="give another --output") from error
    click.echo(f"{output}: {len(records)} records, {name_of(records[0])} to {name_of(records[-1])}")


def name_of(record: BenchRecord) -> str:
    """Return the commit of `record`, or the version outside a repository."""
    return record.commit or record.version


def record_path(written: Path) -> Path:
    """Return the file that `written` names: a path, or the newest record of a commit in benchmarks/results.

    Raises:
        DataError: there is none.
    """
    if written.exists() or written.suffix == ".json":
        return written
    found = [path for path in RESULTS.glob("*.json") if path.stem.partition("-")[2].startswith(str(written))]
    if not found:
        known = ", ".join(sorted(path.stem.partition("-")[2] for path in RESULTS.glob("[0-9]*-*.json"))) or "none"
        raise DataError(f"{written}: no such file, and no record of that commit in {RESULTS}", hint=f"there: {known}")
    return max(found)
