"""`hpc-yolo weights`: download published weights, show and convert model files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.monitor.progress import counting_bytes
from hpc_yolo.weights.published import fetch as fetch_published
from hpc_yolo.weights.store import Store, published_names

SUFFIX = ".safetensors"


@click.group()
def weights() -> None:
    """Download, show and convert weights.

    A .pt file holds a pickle, which is a program. hpc-yolo reads its tensors without running any of it.
    """


@weights.command(name="list", short_help="List published weights and those in the cache.")
def list_weights() -> None:
    """List published weights by name, with the path of those in the cache."""
    store = Store.from_env(current_environment())
    for name in published_names():
        click.echo(f"{name:14} {store.path(name) if store.path(name).exists() else '-'}")


@weights.command(short_help="Download published weights.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--sha256", metavar="HEX", help="Expected SHA-256 of the file; for a single name.")
@click.option("--from", "address", metavar="URL", help="A mirror to download from, instead of the project's release.")
def fetch(names: tuple[str, ...], sha256: str | None, address: str | None) -> None:
    """Download published weights such as yolov5s.pt into the cache; an interrupted download is resumed.

    The project publishes no digests. That of the first download is kept beside the file and checked from then on;
    --sha256 checks the first too. Variables: HPC_YOLO_WEIGHTS_URL (a mirror), HPC_YOLO_CACHE (the directory),
    https_proxy.
    """
    if sha256 and len(names) > 1:
        raise click.UsageError("--sha256 is for a single name")
    store = Store.from_env(current_environment())
    if address:
        store = dataclasses.replace(store, address=address.rstrip("/"))
    for name in names:
        with counting_bytes(name) as on_progress:
            path = fetch_published(name, store, sha256=sha256, on_progress=on_progress)
        click.echo(str(path))


@weights.command(short_help="Convert a model file to safetensors.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Output file. [default: beside FILE]")
def convert(file: Path, output: Path | None) -> None:
    """Write the model in FILE as safetensors: tensors and JSON, nothing executable."""
    from hpc_yolo.checkpoint import save_model  # imports torch
    from hpc_yolo.weights.model_file import build_detector, description_of, read_model_file

    target = output or file.with_suffix(SUFFIX)
    if target.suffix != SUFFIX:
        raise click.UsageError(f"-o {target}: the name of a model file must end with {SUFFIX}")
    if target.exists():
        raise CheckpointError(f"{target} exists already", hint="give another name with -o")
    content = read_model_file(file)
    try:
        size_bytes = save_model(target, build_detector(content), description_of(content))
    except OSError as error:
        raise CheckpointError(
            f"{target}: cannot be written: {error.strerror}", hint="give another file with -o"
        ) from error
    click.echo(f"{target}: {len(content.tensors)} tensors, {size_bytes / 2**20:.1f} MiB")


@weights.command(short_help="Show the contents of a model file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def show(file: Path, as_json: bool) -> None:
    """Show the contents of FILE: model, classes, number of tensors and parameters, image size."""
    from hpc_yolo.weights.model_file import read_model_file  # imports torch

    content = read_model_file(file)
    facts = {
        "file": str(file),
        "model": content.model,
        "classes": list(content.names),
        "tensors": len(content.tensors),
        "numbers": sum(tensor.numel() for tensor in content.tensors.values()),
        "imgsz": content.imgsz,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name:8} {', '.join(value) if isinstance(value, list) else value}")
