"""`hpc-yolo check` and `hpc-yolo schema`: what is wrong with a spec, and what a spec may say."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.spec.load import load_spec
from hpc_yolo.spec.schema import MEASURED_BATCH


@click.command()
@spec_options()
def check(spec_path: Path, assignments: tuple[str, ...], **shortcuts: str | None) -> None:
    """Read SPEC and print everything that is wrong with it, with file, line and column."""
    spec = load_spec(spec_path, read_overrides(assignments, shortcuts))
    cluster, train = spec.cluster, spec.train
    batch = "a measured batch" if train.batch == MEASURED_BATCH else f"batch {train.batch}"
    click.echo(
        f"{spec_path}: good. {spec.model or spec.weights} on {spec.data}, {train.epochs} epochs of {batch} on "
        f"{cluster.nodes} nodes x {cluster.num_tasks_per_node} tasks"
    )


@click.command()
def schema() -> None:
    """Print the JSON schema of a spec, which editors use to complete and check it.

    In an editor with the YAML language server, name the printed file in the first line of a spec:
    # yaml-language-server: $schema=hpc-yolo.schema.json
    """
    from hpc_yolo.spec.jsonschema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
