"""`hpc-yolo after-job`: the last command of a batch script, which completes what the tasks could not do."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.launch.evaluation_queue import cancel_evaluation
from hpc_yolo.launch.prepare import run_of, submitted_spec
from hpc_yolo.resilience.after_job import conclude_job
from hpc_yolo.resilience.failed_setup import conclude_failed_setup
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import load_spec


@click.command(hidden=True)
@spec_options()
@click.option("--exit-code", type=int, required=True, help="Exit code of the srun before it: $?")
@click.option(
    "--failed-setup",
    "setup_record",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The setup failed before the tasks; FILE holds the number of its line.",
)
def after_job(
    spec_path: Path,
    assignments: tuple[str, ...],
    exit_code: int,
    setup_record: Path | None,
    **shortcuts: str | None,
) -> None:
    """Decide what follows a Slurm job whose tasks have ended with this exit code.

    SPEC is the spec of the tasks, with the same options, or the run directory. Where a task was killed, stalled or was
    stopped before its first step, the end is written to the journal and the job is requeued if the spec allows it.
    The exit code is that of the tasks, 0 for a finished run.
    """
    process = ProcessInfo.alone(current_environment())
    if exit_code == 0 and spec_path.is_dir():
        cancel_evaluation(RunDirectory(spec_path.absolute()))
    if exit_code == 0 and process.attempt == 1 and setup_record is None:
        return
    if spec_path.is_dir():
        run = RunDirectory(spec_path.absolute())
        spec = submitted_spec(run)
    elif (existing := run_of(spec_path, overrides := read_overrides(assignments, shortcuts))) is not None:
        run, spec = existing, submitted_spec(existing)
    else:
        spec = load_spec(spec_path, overrides)
        run = RunDirectory(Path(spec.output).absolute() / spec.name)
    if setup_record is not None:
        sys.exit(conclude_failed_setup(run, spec.cluster, process, setup_record, exit_code))
    sys.exit(conclude_job(run, spec.cluster, process, exit_code))
