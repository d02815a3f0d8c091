"""`hpc-yolo report`: write one HTML file about a run, or about several side by side."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hpc_yolo.cli.run_argument import RUNS, named_run
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.core.text import printable
from hpc_yolo.report.facts import read_facts, unique_labels
from hpc_yolo.report.page import made_now, report_page
from hpc_yolo.runs.sweep import SweepDirectory


@click.command()
@RUNS
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Output file. [default: report.html in the run directory; in the working directory for several runs and "
    "those of others]",
)
def report(written: tuple[str, ...], output: Path | None) -> None:
    """Write curves, metrics, confusion matrices, images, labels, attempts, time and spec of each RUN to one HTML file.

    Of a sweep, named by its directory: a table of its trials, lines over parallel axes, the metric over each field.

    The file refers to no other file and no network. Several runs share their charts, and the differences between their
    specs are listed.
    """
    made = made_now()
    if len(written) == 1 and SweepDirectory(Path(written[0]).absolute()).exists:
        _report_sweep(Path(written[0]), output, made)
        return
    runs = list({run.path.resolve(): run for run in map(named_run, written)}.values())
    facts = [read_facts(run, label) for run, label in zip(runs, unique_labels(runs), strict=True)]
    is_beside = len(runs) == 1 and os.access(runs[0].path, os.W_OK)
    path = output or (runs[0].report if is_beside else Path("report.html"))
    _write(path, report_page(facts, made))
    text = f"report of {', '.join(run.name for run in runs)}: {path} ({path.stat().st_size / 1e6:.1f} MB)"
    click.echo(printable(text))


def _report_sweep(path: Path, output: Path | None, made: str) -> None:
    """Write the page of the sweep in directory `path`."""
    from hpc_yolo.cli.sweep import facts_of  # with what it needs 20 ms, of no use for runs
    from hpc_yolo.report.sweep_page import sweep_page

    facts, warning = facts_of(path)
    if warning:
        click.echo(f"warning: {warning}", err=True)
    target = output or (path / "report.html" if os.access(path, os.W_OK) else Path("report.html"))
    _write(target, sweep_page(facts, made))
    click.echo(f"report of {facts.name}: {target} ({target.stat().st_size / 1e6:.1f} MB)")


def _write(path: Path, page: str) -> None:
    try:
        write_atomic(path, page.encode(errors="backslashreplace"))  # a path may be no text
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}", hint="name another file with -o FILE") from error
