"""`hpc-yolo models`: the networks side by side."""

from __future__ import annotations

import json
from typing import Any

import click

SOURCE = (
    "parameters, and GFLOPs of an image of 640 px: counted here, for {num_classes} classes. The rest is published by "
    "the YOLOv5 project (README of v7.0), not measured here: px trained at, mAP50-95 and mAP50 on COCO val2017, ms a "
    "image on a CPU, on a V100 and on a V100 in batches of 32."
)
HEADINGS = {
    "name": "network",
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
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def models(names: tuple[str, ...], num_classes: int, as_json: bool) -> None:
    """Print parameters and FLOPs of the networks, all of them or those named, and what is published of them.

    FILE is a YAML of rows of your own, as a spec's `model` takes it; its `nc` is not used, as the number of classes
    is the dataset's.
    """
    from rich.console import Console
    from rich.progress import track

    from hpc_yolo.spec.validate import model_names

    chosen = names or tuple(sorted(model_names(), key=lambda name: (name.endswith("6"), "nsmlx".index(name[6]))))
    progress = track(chosen, "counting", console=Console(stderr=True), transient=True, disable=as_json)
    rows = [facts_of(name, num_classes) for name in progress]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows, num_classes)


def facts_of(name: str, num_classes: int) -> dict[str, Any]:
    """What is counted and published of one network."""
    import yaml

    from hpc_yolo.core.package_data import resource_directory
    from hpc_yolo.models.complexity import complexity

    path = resource_directory("configs") / "published" / "models.yaml"
    published = yaml.safe_load(path.read_text(encoding="utf-8"))
    counted = complexity(name, num_classes)
    known = published["models"].get(name, [None] * len(published["columns"]))
    row = {"name": name, "parameters": counted.num_parameters, "gflops_640": round(counted.gflops, 3)}
    return row | dict(zip(published["columns"], known, strict=True))


def _print_table(rows: list[dict[str, Any]], num_classes: int) -> None:
    from rich.console import Console
    from rich.table import Table

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
    Console().print(table)
