"""`hpc-yolo report`: write one HTML file about a run, or about several side by side."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

import hpc_yolo
from hpc_yolo.cli.run_argument import RUNS, named_run
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.report.facts import read_facts, unique_labels
from hpc_yolo.report.page import report_page


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

    The file refers to no other file and no network. Several runs share their charts, and the differences between their
    specs are listed.
    """
    runs = list({run.path.resolve(): run for run in map(named_run, written)}.values())
    facts = [read_facts(run, label) for run, label in zip(runs, unique_labels(runs), strict=True)]
    made = f"Made by hpc-yolo {hpc_yolo.__version__} on {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
    is_beside = len(runs) == 1 and os.access(runs[0].path, os.W_OK)
    path = output or (runs[0].report if is_beside else Path("report.html"))
    try:
        write_atomic(path, report_page(facts, made))
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}", hint="name another file with -o FILE") from error
    click.echo(f"report of {', '.join(run.name for run in runs)}: {path} ({path.stat().st_size / 1e6:.1f} MB)")
