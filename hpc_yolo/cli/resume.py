"""`hpc-yolo resume`: submit existing runs again."""

from __future__ import annotations

import click

from hpc_yolo.cli.options import read_overrides
from hpc_yolo.cli.run_argument import RUNS, named_run
from hpc_yolo.cli.stages import submit_alone
from hpc_yolo.cli.submission import print_warnings
from hpc_yolo.cli.submit import carry_out
from hpc_yolo.cluster.sbatch_variables import REQUESTS
from hpc_yolo.launch.plan import Plan, make_plan
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.prepare import spec_to_resume
from hpc_yolo.launch.stages_alone import stages_to_submit
from hpc_yolo.launch.weights import with_located_weights


@click.command()
@RUNS
@click.option(
    "--set", "assignments", metavar="FIELD=VALUE", multiple=True, help="Change a field that later attempts may change."
)
@click.option("--follow", is_flag=True, help="Show its progress until it ends. Local runs are always followed.")
def resume(written: tuple[str, ...], assignments: tuple[str, ...], follow: bool) -> None:
    """Submit each RUN again, finished, failed or cancelled, in the same directory; it resumes from its last checkpoint.

    For example: hpc-yolo resume first --set train.epochs=200
    """
    overrides = read_overrides(assignments, {})
    runs = {run.path: run for run in map(named_run, written)}.values()
    plans = [make_plan(with_located_weights(spec_to_resume(run, overrides))) for run in runs]
    local = [plan.run.name for plan in plans if not plan.uses_slurm]
    if len(plans) > 1 and (local or follow):
        raise click.UsageError(f"{local[0] if local else 'each'} is followed until it ends: resume one run at a time")
    stages = [stages_to_submit(plan.run, plan.spec) for plan in plans]
    for plan, alone in zip(plans, stages, strict=True):
        if not alone:
            print_warnings([*variable_warnings(plan), *preflight(plan.spec, plan.run, for_slurm=plan.uses_slurm)])
    for plan, alone in zip(plans, stages, strict=True):
        if alone:
            submit_alone(plan, alone, dry_run=False)
        else:
            carry_out(plan, follow=follow, wait=False)


def variable_warnings(plan: Plan) -> list[str]:
    """Return a line for each variable of the shell that requests something else than the run was submitted with."""
    return [
        f"{name}={value} is ignored: {plan.run.name} was submitted with another cluster.{field}; "
        f"--set cluster.{field}={value} changes it"
        for field, name in REQUESTS.items()
        if (value := plan.ignored_variables.get(name)) not in (None, getattr(plan.spec.cluster, field))
    ]
