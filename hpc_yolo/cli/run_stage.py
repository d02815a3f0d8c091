"""`hpc-yolo run-stage`: the command of a batch script that runs a stage after the training."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.launch.prepare import submitted_spec
from hpc_yolo.launch.stage_task import run_stage_in_job
from hpc_yolo.notify.ends import notify_stages
from hpc_yolo.runs.directory import RunDirectory


@click.command(hidden=True)
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("name", metavar="STAGE")
@click.option("--number", type=int, default=1, help="Number of the try.")
@click.option("--failed-setup", "setup_record", type=click.Path(path_type=Path), help="The setup failed before it.")
@click.option("--exit-code", type=int, help="Exit code of the setup.")
def run_stage(path: Path, name: str, number: int, setup_record: Path | None, exit_code: int | None) -> None:
    """Run the stage STAGE of the run directory RUN if the run has ended, else queue it again behind the run."""
    run = RunDirectory(path.absolute())
    refusal = ""
    if setup_record is not None:
        setup_record.unlink(missing_ok=True)
        refusal = f"cluster.setup failed with exit status {exit_code}"
    process = ProcessInfo.alone(current_environment())
    spec = submitted_spec(run)
    status = run_stage_in_job(run, spec, name, number, process, refusal=refusal)
    if status != 0 and spec.notify is not None:
        notify_stages(run, spec.notify, current_environment(), job_id=process.job_id)
    sys.exit(status)
