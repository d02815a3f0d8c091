"""Options and output that the benchmarks share."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import msgspec

from hpc_yolo.bench.records import BenchResult, Timing, require_writable, spread, write_record
from hpc_yolo.bench.rounds import Rounds
from hpc_yolo.bench.run import BENCHMARKS, QUICK_ROUNDS, make_record, run_benchmark
from hpc_yolo.core.errors import DataError, HpcYoloError, RunError
from hpc_yolo.monitor.progress import counting

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a measurement: --quick, --rounds, --save and --json."""
    for option in (
        AS_JSON,
        click.option(
            "--save",
            "directory",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIRECTORY",
            help="Write the record into it, named after time and commit.",
        ),
        click.option("--rounds", "num_rounds", type=click.IntRange(min=1), metavar="N", help="Number of rounds."),
        click.option("--quick", is_flag=True, help="Few rounds of little work: seconds instead of minutes."),
    ):
        command = option(command)
    return command


def carry_out(
    names: Sequence[str], *, quick: bool, num_rounds: int | None, directory: Path | None, as_json: bool
) -> None:
    """Run the benchmarks `names`, print each when it is done, and save the record of all that ran.

    Raises:
        RunError: some could not be run; the others were.
        DataError: the record cannot be written.
    """
    if directory is not None:
        require_writable(directory)  # before minutes of measurement
    results: list[BenchResult] = []
    failed: list[str] = []
    for name in names:
        number = num_rounds or (QUICK_ROUNDS if quick else BENCHMARKS[name].rounds)
        with counting(f"bench {name}", number + 1) as on_progress:
            rounds = Rounds(number, quick, lambda _bench, done, total: on_progress(done, total))
            try:
                found = run_benchmark(name, rounds)
            except (HpcYoloError, OSError, subprocess.SubprocessError) as error:
                failed.append(f"{name}: {failure_text(error)}")
                continue
        results += found
        for result in () if as_json else found:
            click.echo("\n".join(lines_of(result)))
    record = make_record(results, is_quick=quick)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(record), indent=2))
    if directory is not None and results:
        try:
            path = write_record(directory, record)
        except OSError as error:
            raise DataError(f"{directory}: cannot be written: {error.strerror}", hint="--save another one") from error
        click.echo(f"written: {path}", err=True)
    if failed:
        raise RunError(f"not measured: {'; '.join(failed)}")


def failure_text(error: Exception) -> str:
    """Return why a benchmark could not be run: the message, or the last line that its command printed."""
    if isinstance(error, HpcYoloError):
        return error.message
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return str(error.stderr.decode(errors="replace").strip().splitlines()[-1])
    return str(error)


def lines_of(result: BenchResult) -> Iterator[str]:
    """Yield the lines of one result: what it is compared with, then each timing."""
    reference_ms = 1000 * statistics.median([*result.reference_s, *result.again_s])
    yield f"{result.bench}: {result.clock} time over that of: {result.reference} ({reference_ms:.3g} ms)"
    for timing in result.timings:
        ratios = result.ratios(timing)
        yield (
            f"  {timing.name:36} {rate(timing):>20} {statistics.median(ratios):8.3f} ± {100 * spread(ratios):.1f} % "
            f"of the reference"
        )
    yield f"  {'noise floor':36} {'':20} {100 * result.noise:10.1f} %, {len(result.reference_s)} rounds"


def rate(timing: Timing) -> str:
    """Return the median speed of `timing` as text: images a second, or milliseconds of everything else."""
    if timing.unit == "image":
        return f"{timing.amount / timing.median_s:,.4g} images/s"
    return f"{1000 * timing.median_s / timing.amount:,.3g} ms a {timing.unit}"
