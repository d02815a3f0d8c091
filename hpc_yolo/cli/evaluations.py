"""Commands of batch scripts for `validate: aside`: one queues jobs beside the tasks, one is the task of such a job."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpc_yolo.core.errors import RunError
from hpc_yolo.launch.beside import same_parent
from hpc_yolo.launch.evaluation_queue import queue_evaluations
from hpc_yolo.launch.prepare import submitted_spec
from hpc_yolo.resilience.failed_setup import describe_failure, read_number
from hpc_yolo.runs.directory import RunDirectory

RUN = click.argument("path", metavar="RUN", type=click.Path(path_type=Path))


@click.command("queue-evaluations", hidden=True)
@RUN
def queue(path: Path) -> None:
    """Queue Slurm jobs that evaluate the models of RUN, while the batch script that has started this command runs."""
    run = _existing(path)
    queue_evaluations(run, submitted_spec(run), is_needed=same_parent())


@click.command("evaluate-waiting", hidden=True)
@RUN
@click.option("--exit-code", type=int, default=1, help="Of the setup that failed.")
@click.option("--failed-setup", type=click.Path(path_type=Path), help="The setup failed before the task.")
def evaluate(path: Path, exit_code: int, failed_setup: Path | None) -> None:
    """Evaluate the models of RUN that wait, and append the results."""
    run = _existing(path)
    spec = submitted_spec(run)
    if failed_setup is not None:
        click.echo(f"hpc-yolo: {describe_failure(spec.cluster, read_number(failed_setup), exit_code)}")
        failed_setup.unlink(missing_ok=True)
        sys.exit(exit_code or 1)

    from hpc_yolo.training.evaluation_job import evaluate_waiting_models  # imports torch

    evaluate_waiting_models(run, spec)


def _existing(path: Path) -> RunDirectory:
    run = RunDirectory(path.absolute())
    if not run.exists:
        raise RunError(f"{path} is not a run directory", hint="hpc-yolo list shows all runs")
    return run
