"""Messages of the commands at whose end a run ends; what goes wrong with them is printed and changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.launch.submit import job_environment
from hpc_yolo.notify.ends import notify_end, notify_followed_end, notify_stages
from hpc_yolo.notify.problems import ProblemWatch, watching
from hpc_yolo.resilience.run_over import end_of_run
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.run_end import recorded_end
from hpc_yolo.spec.notify import PROBLEM, NotifySpec
from hpc_yolo.spec.schema import Spec


@contextlib.contextmanager
def local_messages(run: RunDirectory, spec: Spec, notify: NotifySpec, job_id: str | None) -> Iterator[None]:
    """Report problems of a run that trains on this machine while the block runs, and its end afterwards.

    Args:
        job_id: of the tasks.
    """
    environ = local_environment(spec)
    watch = ProblemWatch(run, notify, environ, job_id=job_id) if PROBLEM in notify.events else None
    try:
        with watching(watch):
            yield
    finally:
        with printed_errors():
            if (end := end_of_run(run)) is not None:
                notify_end(run, notify, end, environ, job_id=job_id)


def local_stage_messages(run: RunDirectory, spec: Spec, notify: NotifySpec) -> None:
    """Report the stages that have failed on this machine."""
    with printed_errors():
        notify_stages(run, notify, local_environment(spec), job_id=None)


def followed_messages(run: RunDirectory, notify: NotifySpec) -> None:
    """Send from here, where a person has followed a job of Slurm to its end, what its nodes could not send."""
    with printed_errors():
        notify_followed_end(run, notify, current_environment())


def cancelled_message(run: RunDirectory, notify: NotifySpec, process: ProcessInfo) -> None:
    """Send the message about a run whose job a person has cancelled, from its task: its batch script is killed."""
    with printed_errors():
        end = recorded_end(Attempts(read_events(run.journal)))
        if end is not None and end.is_by_person:
            notify_end(run, notify, end, current_environment(), job_id=process.job_id)


def local_environment(spec: Spec) -> Mapping[str, str]:
    """Return the environment of the tasks of a run on this machine."""
    with job_environment(spec.cluster.env):
        return current_environment()


@contextlib.contextmanager
def printed_errors() -> Iterator[None]:
    """Print an error that the block raises, and go on after the block."""
    try:
        yield
    except (HpcYoloError, OSError) as error:
        print(f"hpc-yolo: notify: {error}", flush=True)
