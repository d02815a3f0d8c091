"""Whether a run has ended, by its journal and by the state of its jobs in Slurm, and what its stages wait for."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.jobs import current_jobs, job_states
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.resilience.lease import last_holder
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import Cause
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.run_end import RunEnd, recorded_end
from hpc_yolo.runs.submissions import stage_submissions


def end_of_run(run: RunDirectory) -> RunEnd | None:
    """Return the end of `run`; None while a job of it waits or runs.

    Raises:
        SchedulerUnavailable: the journal has no end, and Slurm does not answer.
    """
    attempts = Attempts(read_events(run.journal))
    if (recorded := recorded_end(attempts)) is not None:
        return recorded
    states = job_states(current_jobs(run))
    if any(state.is_alive for state in states):
        return None
    number = 0 if attempts.newest is None else attempts.newest.number
    is_cancelled = any(state.is_cancelled for state in states[:1])  # a successor is cancelled when it is not needed
    return RunEnd(number, is_finished=False, cause=Cause.CANCELLED if is_cancelled else Cause.KILLED)


def end_in_job(run: RunDirectory, process: ProcessInfo, cause: str | None) -> RunEnd | None:
    """Return the end of `run` that this job has brought about; None where the run goes on, here or in another job.

    Args:
        process: the batch script's last command.
        cause: with which the run has ended, where the journal may not have its end; None where it goes on.
    """
    attempts, holder = Attempts(read_events(run.journal)), last_holder(run)
    recorded = recorded_end(attempts)
    if recorded is not None and holder is not None and holder.job_id == process.job_id:
        return recorded
    number = 0 if attempts.newest is None else attempts.newest.number
    return None if cause is None else RunEnd(number, is_finished=cause == Cause.FINISHED, cause=cause)


def dependency_after(job_ids: Sequence[str]) -> str:
    """Return sbatch's dependency on the end of all jobs, whatever it is: the stage itself finds out how the run ended.

    Slurm shows the last end of a job that it has preempted before as PREEMPTED, even if that exits with 0; afterok
    would never hold.
    """
    return f"afterany:{':'.join(job_ids)}"


def move_stages_behind(run: RunDirectory, job_id: str, successor: str) -> None:
    """Let the stages that wait for job `job_id` of a chain wait for its successor too; each follows the one before it.

    A stage for which Slurm refuses begins too early and queues itself again.
    """
    before: list[str] = []
    for stage in stage_submissions(run):
        with contextlib.suppress(ClusterError):
            scheduler.set_dependency(stage.address, dependency_after([job_id, successor, *before]))
        before = [stage.job_id]
