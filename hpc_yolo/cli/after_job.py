"""`hpc-yolo after-job`: the last line of a batch script, for tasks that had no time for words."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options


@click.command(hidden=True)
@spec_options()
@click.option("--exit-code", type=int, required=True, help="Of the srun before it: $?")
@click.option(
    "--failed-setup",
    "setup_record",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The setup has failed before the tasks; FILE holds the number of its line.",
)
def after_job(
    spec_path: Path,
    assignments: tuple[str, ...],
    exit_code: int,
    setup_record: Path | None,
    **shortcuts: str | None,
) -> None:
    """Decide what becomes of a Slurm job whose tasks have ended with this exit code.

    SPEC is the spec that the tasks trained, with the same options, or its run directory. Where a task was killed, hung
    or was stopped before its first step, the journal is told, and the job goes back into the queue if the spec allows.
    The exit code is that of the tasks, 0 for a run that is finished.
    """
    from hpc_yolo.cluster.process import ProcessInfo, current_environment
    from hpc_yolo.launch.failed_setup import conclude_failed_setup
    from hpc_yolo.launch.prepare import run_of
    from hpc_yolo.resilience.after_job import conclude_job
    from hpc_yolo.runs.directory import RunDirectory
    from hpc_yolo.runs.journal import require_format
    from hpc_yolo.spec.load import load_resolved_spec, load_spec

    process = ProcessInfo.alone(current_environment())
    if exit_code == 0 and process.attempt == 1 and setup_record is None:
        return
    if spec_path.is_dir():
        run = RunDirectory(spec_path.absolute())
        require_format(run.journal)
        spec = load_resolved_spec(run.spec)
    elif (begun := run_of(spec_path, overrides := read_overrides(assignments, shortcuts))) is not None:
        run, spec = begun, load_resolved_spec(begun.spec)
    else:
        spec = load_spec(spec_path, overrides)
        run = RunDirectory(Path(spec.output).absolute() / spec.name)
    if setup_record is not None:
        sys.exit(conclude_failed_setup(run, spec.cluster, process, setup_record, exit_code))
    sys.exit(conclude_job(run, spec.cluster, process, exit_code))
