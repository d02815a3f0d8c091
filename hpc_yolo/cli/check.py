"""`hpc-yolo check` and `hpc-yolo schema`: check a spec, and print the JSON schema of specs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.units import counted
from hpc_yolo.spec.data import OFF
from hpc_yolo.spec.json_schema import json_schema
from hpc_yolo.spec.load import load_with_origins
from hpc_yolo.spec.profile import Profile
from hpc_yolo.spec.shell import require_shell_syntax
from hpc_yolo.spec.stage_rules import require_shell_stages
from hpc_yolo.spec.train import MEASURED_BATCH


@click.command()
@spec_options()
def check(spec_path: Path, assignments: tuple[str, ...], **shortcuts: str | None) -> None:
    """Read SPEC and print every problem with file, line and column."""
    loaded = load_with_origins(spec_path, read_overrides(assignments, shortcuts), site_lookup(for_slurm=True))
    spec = loaded.spec
    cluster, train = spec.cluster, spec.train
    require_shell_syntax(cluster)
    require_shell_stages(spec.then)
    batch = "a measured batch" if train.batch == MEASURED_BATCH else f"batch {train.batch}"
    tasks = f"{counted(cluster.nodes, 'node')} x {counted(cluster.num_tasks_per_node, 'task')}"
    python = "" if cluster.python is None else f", with {cluster.python}"
    if (container := cluster.used_container) is not None:
        python += f", in {container.image}"
    site = "" if loaded.site is None else f", site {loaded.site.name} ({loaded.site.why})"
    staged = "" if spec.data.stage == OFF else f" (stage {spec.data.stage})"
    click.echo(
        f"{spec_path}: valid. {spec.model_source} on {spec.data.described}{staged}, {counted(train.epochs, 'epoch')} "
        f"of {batch} on {tasks}{python}{site}"
    )


@click.command()
@click.option("--site", "of_site", is_flag=True, help="The schema of a site profile instead.")
def schema(of_site: bool) -> None:
    """Print the JSON schema of a spec, with which editors complete and check it.

    In an editor with the YAML language server, name the printed file in the first line of a spec:
    # yaml-language-server: $schema=hpc-yolo.schema.json
    """
    found = json_schema(Profile, "hpc-yolo site profile") if of_site else json_schema()
    click.echo(json.dumps(found, indent=2))
