"""`hpc-yolo weights`: published weights fetched, `.pt` files looked into and turned into safetensors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hpc_yolo.weights.store import Progress

SUFFIX = ".safetensors"


@click.group()
def weights() -> None:
    """Weights to begin with.

    A .pt file holds a pickle, which is a program. hpc-yolo reads its tensors without running any of it.
    """


@weights.command(name="list", short_help="Published weights, and which are here.")
def list_weights() -> None:
    """Published weights by name, and those that are here already."""
    from hpc_yolo.cluster.process import current_environment
    from hpc_yolo.weights.store import Store, published_names

    store = Store.from_env(current_environment())
    for name in published_names():
        click.echo(f"{name:14} {store.path(name) if store.path(name).exists() else '-'}")


@weights.command(short_help="Download published weights.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--sha256", metavar="HEX", help="What the file's SHA-256 must be; for a single name.")
@click.option("--from", "address", metavar="URL", help="A mirror to fetch from, in place of the project's release.")
def fetch(names: tuple[str, ...], sha256: str | None, address: str | None) -> None:
    """Download published weights such as yolov5s.pt into the cache; a download that was cut off goes on.

    The project publishes no digests. That of the first download is kept beside the file and checked every time after;
    --sha256 checks the first too. Variables: HPC_YOLO_WEIGHTS_URL (a mirror), HPC_YOLO_CACHE (the directory),
    https_proxy.
    """
    import dataclasses

    from hpc_yolo.cluster.process import current_environment
    from hpc_yolo.weights.published import fetch as fetch_published
    from hpc_yolo.weights.store import Store

    if sha256 and len(names) > 1:
        raise click.UsageError("--sha256 is for a single name")
    store = Store.from_env(current_environment())
    if address:
        store = dataclasses.replace(store, address=address.rstrip("/"))
    for name in names:
        with download_progress(name) as on_progress:
            path = fetch_published(name, store, sha256=sha256, on_progress=on_progress)
        click.echo(str(path))


@weights.command(short_help="Write a file's network as safetensors.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to; beside FILE unless said.")
def convert(file: Path, output: Path | None) -> None:
    """Write the network of FILE as safetensors: tensors and JSON, nothing that could run."""
    from hpc_yolo.checkpoint import save_model
    from hpc_yolo.core.errors import CheckpointError
    from hpc_yolo.weights.model_file import build_detector, description_of, read_model_file

    target = output or file.with_suffix(SUFFIX)
    if target.suffix != SUFFIX:
        raise click.UsageError(f"-o {target}: the name of a file of weights ends with {SUFFIX}")
    if target.exists():
        raise CheckpointError(f"{target} is there already", hint="give another name with -o")
    found = read_model_file(file)
    size_bytes = save_model(target, build_detector(found), description_of(found))
    click.echo(f"{target}: {len(found.tensors)} tensors, {size_bytes / 2**20:.1f} MiB")


@weights.command(short_help="What is in a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def show(file: Path, as_json: bool) -> None:
    """What is in FILE: network, classes, tensors, training size."""
    from hpc_yolo.weights.model_file import read_model_file

    found = read_model_file(file)
    facts = {
        "file": str(file),
        "network": found.model,
        "classes": list(found.names),
        "tensors": len(found.tensors),
        "numbers": sum(tensor.numel() for tensor in found.tensors.values()),
        "imgsz": found.imgsz,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name:8} {', '.join(value) if isinstance(value, list) else value}")


@contextlib.contextmanager
def download_progress(name: str) -> Iterator[Progress]:
    """A bar that shows up with the first byte."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, visible=False)

        def on_progress(done_bytes: int, all_bytes: int | None) -> None:
            bar.update(task, completed=done_bytes, total=all_bytes, visible=True)

        yield on_progress
