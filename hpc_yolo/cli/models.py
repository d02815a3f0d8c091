"""`hpc-yolo models`: the networks side by side."""

from __future__ import annotations

import json
from typing import Any

import click

SOURCE = (
    "mAP and times: published by the YOLOv5 project (v7.0, COCO val2017, V100); parameters and FLOPs: counted here."
)
HEADINGS = {
    "name": "network",
    "parameters": "parameters M",
    "gflops_640": "GFLOPs @ 640",
    "imgsz": "trained at px",
    "map50_95": "mAP50-95",
    "map50": "mAP50",
    "cpu_b1_ms": "CPU ms",
    "v100_b1_ms": "V100 ms",
    "v100_b32_ms": "V100 ms, batch 32",
}


@click.command(short_help="Compare the networks: size, FLOPs, published mAP and speed.")
@click.argument("names", metavar="[NAME|FILE]...", nargs=-1)
@click.option("--classes", "num_classes", type=click.IntRange(min=1), default=80, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def models(names: tuple[str, ...], num_classes: int, as_json: bool) -> None:
    """Print parameters and FLOPs of the networks, all of them or those named, and what is published of them.

    FILE is a YAML of layers of your own.
    """
    from rich.console import Console
    from rich.progress import track

    from hpc_yolo.spec.rules import model_names

    chosen = names or tuple(sorted(model_names(), key=lambda name: (name.endswith("6"), "nsmlx".index(name[6]))))
    progress = track(chosen, "building", console=Console(stderr=True), transient=True, disable=as_json)
    rows = [facts_of(name, num_classes) for name in progress]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


def facts_of(name: str, num_classes: int) -> dict[str, Any]:
    """What is counted and published of one network."""
    import yaml

    from hpc_yolo.models import build_model
    from hpc_yolo.models.complexity import complexity
    from hpc_yolo.resources import resource_folder

    published = yaml.safe_load((resource_folder("configs") / "published" / "models.yaml").read_text())
    counted = complexity(build_model(name, num_classes))
    known = published["models"].get(name, [None] * len(published["columns"]))
    row = {"name": name, "parameters": counted.num_parameters, "gflops_640": round(counted.gflops, 3)}
    return row | dict(zip(published["columns"], known, strict=True))


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(caption=SOURCE)
    for key, heading in HEADINGS.items():
        table.add_column(heading, justify="left" if key == "name" else "right")
    for row in rows:
        shown = row | {"parameters": f"{row['parameters'] / 1e6:.2f}", "gflops_640": f"{row['gflops_640']:.1f}"}
        table.add_row(*("-" if shown[key] is None else str(shown[key]) for key in HEADINGS))
    Console().print(table)
