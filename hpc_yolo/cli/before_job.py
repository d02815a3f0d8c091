"""`hpc-yolo before-job`: the first command of the batch script of a job whose tasks run in a container."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.launch.container_job import container_mounts
from hpc_yolo.launch.prepare import submitted_spec
from hpc_yolo.resilience.before_job import prepare_job
from hpc_yolo.runs.sweep import run_in_job


@click.command(hidden=True)
@click.argument("run_path", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=Path))
def before_job(run_path: Path) -> None:
    """Do for the run in directory RUN what the tasks of a Slurm job cannot do in a container.

    Check image, mounts and runtime on this node; record the end of an earlier attempt; in chain mode queue the next
    job. Where the exit code is not 0 the tasks must not start.
    """
    run = run_in_job(run_path, current_environment())
    spec, process = submitted_spec(run), ProcessInfo.alone(current_environment())
    sys.exit(prepare_job(run, spec.cluster, process, container_mounts(spec, run)))
