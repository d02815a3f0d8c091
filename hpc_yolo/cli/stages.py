"""Stages of a finished run that `submit` and `resume` run alone, and the scripts of stages in a dry run."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from hpc_yolo.core.errors import TrainingError
from hpc_yolo.launch.plan import Plan
from hpc_yolo.launch.stages import own_stage_jobs, stage_job
from hpc_yolo.launch.stages_alone import run_stages_here, stages_to_submit, submit_stages


def submit_remaining(plan: Plan, *, dry_run: bool) -> bool:
    """Submit what is left of the stages of a finished run, and return True; False for a run that is to be trained."""
    stages = stages_to_submit(plan.run, plan.spec)
    if stages:
        submit_alone(plan, stages, dry_run=dry_run)
    return bool(stages)


def submit_alone(plan: Plan, stages: Mapping[str, int], *, dry_run: bool) -> None:
    """Submit `stages` of the finished run of `plan`, or run them here without Slurm and exit with 8 if one fails."""
    click.echo(f"{plan.run.name} is finished; only what is left of its stages is run: {', '.join(stages)}")
    if dry_run:
        for name, number in stages.items() if plan.uses_slurm else ():
            click.echo(f"\n# stage {name}\n{stage_job(plan.run, plan.spec, name, number).script}", nl=False)
    elif plan.uses_slurm:
        for submission in submit_stages(plan, stages):
            click.echo(f"stage {submission.stage}: queued as job {submission.job_id}")
    elif not run_stages_here(plan, stages):
        sys.exit(TrainingError.exit_code)


def print_scripts(plan: Plan) -> None:
    """Print the scripts of the stages that have jobs of their own, each under its name."""
    for job in own_stage_jobs(plan.run, plan.spec):
        click.echo(f"\n# stage {job.name}\n{job.script}", nl=False)
