"""`hpc-yolo models`: compare the models of the family."""

from __future__ import annotations

import json
from typing import Any

import click
import yaml
from rich.table import Table

from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.monitor.console import data_console
from hpc_yolo.spec.validate import model_names

SOURCE = (
    "parameters, and GFLOPs of an image of 640 px: counted here, for {num_classes} classes. The rest is published by "
    "the YOLOv5 project (README of v7.0), not measured here: px trained at, mAP50-95 and mAP50 on COCO val2017, ms an "
    "image on a CPU, on a V100 and on a V100 in batches of 32. Models with -af are of this project; no values of "
    "theirs are published."
)
HEADINGS = {
    "name": "model",
    "parameters": "params M",
    "gflops_640": "GFLOPs",
    "imgsz": "px",
    "map50_95": "mAP",
    "map50": "mAP50",
    "cpu_b1_ms": "CPU",
    "v100_b1_ms": "V100",
    "v100_b32_ms": "V100x32",
}


@click.command()
@click.argument("names", metavar="[NAME|FILE]...", nargs=-1)
@click.option("--classes", "num_classes", type=click.IntRange(min=1), default=80, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def models(names: tuple[str, ...], num_classes: int, as_json: bool) -> None:
    """Print parameters, FLOPs and published values of all models, or of those named.

    FILE is a YAML of layers, as the field `model` of a spec takes it; its `nc` is not used, since the number of classes
    is that of the dataset.
    """
    chosen = names or tuple(sorted(model_names(), key=_in_table))
    rows = [describe_model(name, num_classes) for name in chosen]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        data_console().print(_table(rows, num_classes))


def _in_table(name: str) -> tuple[str, bool, int]:
    """Return the position of a model: by head, number of levels, size."""
    size, _, head = name.partition("-")
    return head, size.endswith("6"), "nsmlx".index(size[6])


def describe_model(name: str, num_classes: int) -> dict[str, Any]:
    """Return the counted and published values of one model, by column."""
    from hpc_yolo.models.complexity import complexity  # imports torch

    path = resource_directory("configs") / "published" / "models.yaml"
    published = yaml.safe_load(path.read_text(encoding="utf-8"))
    counted = complexity(name, num_classes)
    known = published["models"].get(name, [None] * len(published["columns"]))
    row = {"name": name, "parameters": counted.num_parameters, "gflops_640": round(counted.gflops, 3)}
    return row | dict(zip(published["columns"], known, strict=True))


def _table(rows: list[dict[str, Any]], num_classes: int) -> Table:
    table = Table(caption=SOURCE.format(num_classes=num_classes), caption_justify="left")
    for key, heading in HEADINGS.items():
        is_name = key == "name"
        table.add_column(
            heading,
            justify="left" if is_name else "right",
            no_wrap=not is_name,
            overflow="fold",
            min_width=len(heading),
        )
    for row in rows:
        shown = row | {"parameters": f"{row['parameters'] / 1e6:.2f}", "gflops_640": f"{row['gflops_640']:.1f}"}
        table.add_row(*("-" if shown[key] is None else str(shown[key]) for key in HEADINGS))
    return table
