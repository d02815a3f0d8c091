"""`hpc-yolo render`: print the sbatch script of a spec."""

from __future__ import annotations

from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cli.submission import origin_table
from hpc_yolo.cli.submit import fetch_with_progress
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.data.dataset_source import has_copy
from hpc_yolo.data.run_inputs import are_kept
from hpc_yolo.launch.plan import planned_run, slurm_plan
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.launch.run_names import with_filled_name
from hpc_yolo.launch.weights import with_located_weights
from hpc_yolo.spec.load import load_with_origins
from hpc_yolo.spec.shell import require_shell_syntax
from hpc_yolo.spec.stage_rules import require_shell_stages


@click.command()
@spec_options()
def render(spec_path: Path, assignments: tuple[str, ...], **shortcuts: str | None) -> None:
    """Print the sbatch script that trains SPEC.

    Use: hpc-yolo render spec.yaml > job.sbatch && sbatch job.sbatch

    It is the script that hpc-yolo submit queues. The run directory is created too, with the spec and the files that it
    names as they are now: the job reads them there and writes its output there. The origin of each line is printed to
    standard error. Slurm is not contacted.
    """
    loaded = load_with_origins(spec_path, read_overrides(assignments, shortcuts), site_lookup(for_slurm=True))
    spec = with_filled_name(with_located_weights(loaded.spec))
    require_shell_syntax(spec.cluster)
    require_shell_stages(spec.then)
    plan = slurm_plan(spec, planned_run(spec), "rendered", current_environment())
    fetch_with_progress(spec.weights)
    prepare_run(plan.run, plan.spec, needs_data=False, is_new=not plan.continues)
    if not has_copy(plan.run):
        inputs = "this input" if are_kept(plan.run) else "the run's inputs"
        click.echo(f"{spec.data.described}: not found here; the first attempt of the job copies {inputs}", err=True)
    assert plan.script is not None
    click.echo(origin_table(plan, loaded), err=True)
    click.echo(f"run directory {plan.run.path}", err=True)
    click.echo(plan.script.encode(), nl=False)  # as submit writes it, whatever the locale has
