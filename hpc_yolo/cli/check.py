"""`hpc-yolo check` and `hpc-yolo schema`: what is wrong with a spec, and what a spec may say."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.core.units import counted
from hpc_yolo.spec.load import load_spec
from hpc_yolo.spec.schema import MEASURED_BATCH
from hpc_yolo.spec.shell import require_shell_syntax


@click.command()
@spec_options()
def check(spec_path: Path, assignments: tuple[str, ...], **shortcuts: str | None) -> None:
    """Read SPEC and print everything that is wrong with it, with file, line and column."""
    spec = load_spec(spec_path, read_overrides(assignments, shortcuts))
    cluster, train = spec.cluster, spec.train
    require_shell_syntax(cluster)
    batch = "a measured batch" if train.batch == MEASURED_BATCH else f"batch {train.batch}"
    where = f"{counted(cluster.nodes, 'node')} x {counted(cluster.num_tasks_per_node, 'task')}"
    python = "" if cluster.python is None else f", by {cluster.python}"
    click.echo(
        f"{spec_path}: good. {spec.model or spec.weights} on {spec.data}, {counted(train.epochs, 'epoch')} of {batch} "
        f"on {where}{python}"
    )


@click.command()
def schema() -> None:
    """Print the JSON schema of a spec, which editors use to complete and check it.

    In an editor with the YAML language server, name the printed file in the first line of a spec:
    # yaml-language-server: $schema=hpc-yolo.schema.json
    """
    from hpc_yolo.spec.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
