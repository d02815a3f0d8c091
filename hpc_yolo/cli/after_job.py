"""`hpc-yolo after-job`: the last command of a batch script, which completes what the tasks could not do."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.exit_status import NOT_STARTED
from hpc_yolo.launch.evaluation_queue import cancel_evaluation
from hpc_yolo.launch.prepare import run_of, submitted_spec
from hpc_yolo.launch.run_stages import run_job_stages
from hpc_yolo.launch.stages import cancel_undue_stages, queue_missing_stages
from hpc_yolo.launch.trial import started_trial
from hpc_yolo.notify.ends import notify_end, notify_stages
from hpc_yolo.resilience.after_job import conclude_job
from hpc_yolo.resilience.failed_setup import conclude_failed_setup
from hpc_yolo.resilience.run_over import end_in_job
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.sweep import run_in_job
from hpc_yolo.spec.load import Override, load_spec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.tracking.following import wait_for_tracker


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
    If the run has ended, its messages (notify) and stages (then) follow. The exit code is that of the tasks, 0 for a
    finished run.
    """
    process = ProcessInfo.alone(current_environment())
    if exit_code == NOT_STARTED and spec_path.is_dir() and not run_in_job(spec_path, current_environment()).exists:
        return
    if exit_code == 0 and spec_path.is_dir():
        cancel_evaluation(run_in_job(spec_path, current_environment()))
    is_first_success = exit_code == 0 and process.attempt == 1 and setup_record is None
    try:
        run, spec = run_and_spec(spec_path, read_overrides(assignments, shortcuts))
    except HpcYoloError as error:
        if not is_first_success:
            raise
        print(f"hpc-yolo: stages: {error}", flush=True)  # the training is finished
        return
    if is_first_success and not spec.then and spec.notify is None:
        wait_for_tracker(run, spec.tracking)
        return
    status, cause = exit_code, None
    if setup_record is not None:
        status = conclude_failed_setup(run, spec.cluster, process, setup_record, exit_code)
    else:
        status, cause = conclude_job(run, spec.cluster, process, exit_code)
    if spec.then or spec.notify is not None:
        follow_end(run, spec, process, cause, has_environment=setup_record is None)
    wait_for_tracker(run, spec.tracking)  # which the end of the job would kill
    sys.exit(status)


def follow_end(
    run: RunDirectory, spec: Spec, process: ProcessInfo, cause: str | None, *, has_environment: bool
) -> None:
    """Do what follows in the job that has ended the run: messages, and stages.

    What goes wrong here changes nothing about the run: a message is printed.

    Args:
        cause: of the run's end; None where it goes on.
        has_environment: the setup has succeeded.
    """
    with printed_errors():
        if (end := end_in_job(run, process, cause)) is None:
            return
        if spec.notify is not None:  # before stages, which may take the rest of the job's time
            with printed_errors():
                notify_end(run, spec.notify, end, current_environment(), job_id=process.job_id)
        if not spec.then:
            return
        with printed_errors():
            run_stages_of_job(run, spec, process, end, has_environment=has_environment)
        if spec.notify is not None:
            notify_stages(run, spec.notify, current_environment(), job_id=process.job_id)


def run_stages_of_job(
    run: RunDirectory, spec: Spec, process: ProcessInfo, end: RunEnd, *, has_environment: bool
) -> None:
    """Run the stages inside the job that has ended the run; settle which jobs of other stages wait behind it.

    Args:
        end: of the run.
        has_environment: the setup has succeeded.
    """
    with printed_errors():  # Slurm may not answer; stages in the job need it not
        cancel_undue_stages(run, spec, end)
        queue_missing_stages(run, spec, process, end)
    run_job_stages(run, spec, process, end, refusal="" if has_environment else "cluster.setup failed")


@contextlib.contextmanager
def printed_errors() -> Iterator[None]:
    """Print an error that the block raises, and go on after the block."""
    try:
        yield
    except (HpcYoloError, OSError) as error:
        print(f"hpc-yolo: after the run: {error}", flush=True)


def run_and_spec(path: Path, overrides: list[Override]) -> tuple[RunDirectory, Spec]:
    """Return the run of the spec or run directory `path`, and the spec with which it was submitted.

    Raises:
        HpcYoloError: the spec cannot be read.
    """
    if path.is_dir():
        run = started_trial(path)
        return run, submitted_spec(run)
    if (existing := run_of(path, overrides)) is not None:
        return existing, submitted_spec(existing)
    spec = load_spec(path, overrides)
    return RunDirectory(Path(spec.output).absolute() / spec.name), spec
