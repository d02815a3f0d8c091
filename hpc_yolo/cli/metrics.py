"""Print the metrics of an evaluation: tables for people, JSON for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from hpc_yolo.inference.validate import ValidationReport
from hpc_yolo.monitor.blocks import one_line
from hpc_yolo.monitor.console import data_console

FEW_CLASSES = 50
METRIC_COLUMNS = ("P", "R", "mAP50", "mAP50-95")  # as YOLOv5 heads them


def print_report(report: ValidationReport, directory: Path, *, verbose: bool, as_json: bool) -> None:
    """Print the metrics of all classes and, if few or with `verbose`, of each; then speeds and COCO's metrics."""
    if as_json:
        click.echo(json.dumps({"directory": str(directory), **msgspec.to_builtins(report)}))
        return
    table = _table("Class", "Images", "Instances", *METRIC_COLUMNS)
    images = str(report.num_images)
    table.add_row("all", images, str(report.num_labels), *map(_three, report.metrics.values()))
    if verbose or 1 < len(report.classes) < FEW_CLASSES:
        for row in report.classes:
            table.add_row(one_line(row.name), images, str(row.num_labels), *map(_three, row.metrics.values()))
    console = data_console()
    console.print(
        f"{report.weights} on {report.split} of {report.data}: {report.imgsz} px, {report.device}", style="dim"
    )
    console.print(table)
    speeds = ", ".join(f"{milliseconds:.1f} ms {stage}" for stage, milliseconds in report.speed_ms.items())
    console.print(f"speed of an image, in batches of {report.batch}: {speeds}", soft_wrap=True)
    if report.coco is not None:
        _print_official(console, msgspec.structs.asdict(report.coco))
    console.print(f"results in {directory}", soft_wrap=True)


def print_study(reports: list[ValidationReport], directory: Path, *, as_json: bool) -> None:
    """Print a row for each image size."""
    if as_json:
        click.echo(json.dumps({"directory": str(directory), "sizes": msgspec.to_builtins(reports)}))
        return
    stages = list(reports[0].speed_ms)
    table = _table("px", *METRIC_COLUMNS, *(f"{stage} ms" for stage in stages))
    for report in reports:
        values = map(_three, report.metrics.values())
        table.add_row(str(report.imgsz), *values, *(f"{report.speed_ms[stage]:.1f}" for stage in stages))
    console = data_console()
    console.print(table)
    console.print(f"results in {directory}", soft_wrap=True)


def _print_official(console: Console, metrics: dict[str, float]) -> None:
    """Print precision in one line, recall in the next; the library gives -1 for sizes that the dataset lacks."""
    console.print("official COCO metrics")
    shown = [f"{name.replace('_', ' ')} {'-' if value < 0 else _three(value)}" for name, value in metrics.items()]
    for kind in ("ap", "ar"):
        console.print("  " + "   ".join(one for one in shown if one.startswith(kind)), soft_wrap=True)


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _three(value: float) -> str:
    return f"{value:.3f}"
