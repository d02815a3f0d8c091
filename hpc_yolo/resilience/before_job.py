"""The first command of the batch script of a job in a container, whose tasks lack Slurm's commands.

It checks the container on the node, records the end of an earlier attempt by Slurm's accounting, and in chain mode
queues the job that follows. Where it fails the tasks do not start, and `after_job` follows.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence

from hpc_yolo.cluster.container_checks import require_container_on_node
from hpc_yolo.cluster.jobs import job_has_ended
from hpc_yolo.cluster.mount_points import make_mount_points
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import ClusterError, HpcYoloError
from hpc_yolo.resilience.attempt_end import AttemptFacts, attempt_end
from hpc_yolo.resilience.chain import ensure_successor, require_predecessor_not_cancelled
from hpc_yolo.resilience.failed_setup import write_end
from hpc_yolo.resilience.lost_attempt import own_jobs, record_lost_attempt
from hpc_yolo.resilience.requeue import is_extra_start, requeue_mode
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded
from hpc_yolo.runs.failures import Failure, failure_without_traceback
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.container import Mount
from hpc_yolo.spec.schema import ClusterSpec


def prepare_job(run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo, mounts: Sequence[Mount] = ()) -> int:
    """Do what must precede the tasks of this job; return its exit code, 0 where the tasks may start.

    Args:
        run: the run of this job.
        cluster: its section of the spec.
        process: this process.
        mounts: of the container of a task.
    """
    attempts = Attempts(read_events(run.journal))
    if process.job_id is None or is_extra_start(run, process, attempts):
        return 0
    try:
        require_container_on_node(cluster, mounts, current_environment())
        if cluster.used_container is not None:
            make_mount_points(cluster.used_container, mounts, current_environment())
        _record_lost(run, cluster, process, attempts)
        if requeue_mode(run, process, cluster) == "chain":
            _queue_successor(run, process, process.job_id)
    except HpcYoloError as error:
        print(f"hpc-yolo: {error}", flush=True)
        _record_end(run, cluster, process, error)
        return error.exit_code
    return 0


def failure_before_training(process: ProcessInfo, error: HpcYoloError) -> Failure:
    """Return the record of an `error` for which this process does not begin to train."""
    host = process.host or platform.node()
    return failure_without_traceback(
        error, rank=process.rank, host=host, job_id=process.job_id, restart=process.attempt
    )


def _record_lost(run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo, attempts: Attempts) -> None:
    """Record the missing end of an earlier attempt in Slurm; a task could not query accounting for its cause."""
    lost = attempts.lost
    assert process.job_id is not None
    if lost is None or lost.job_id is None or lost.launcher != "slurm":
        return
    if lost.job_id not in own_jobs(run, process.job_id) and not job_has_ended(lost.job_id):
        return

    def write(attempt: int, ended: AttemptEnded) -> None:
        JournalWriter(run.journal, attempt).write(ended)

    record_lost_attempt(run, cluster, process, attempts, write)


def _queue_successor(run: RunDirectory, process: ProcessInfo, job_id: str) -> None:
    require_predecessor_not_cancelled(run, job_id)
    try:
        ensure_successor(run, process)
    except ClusterError as refusal:
        print(
            f"hpc-yolo: the next job cannot be queued: {refusal.message}; this is retried at the end of this job",
            flush=True,
        )


def _record_end(run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo, error: HpcYoloError) -> None:
    """Write the end of this attempt, whose tasks do not start."""
    attempts = Attempts(read_events(run.journal))
    failures = [failure_before_training(process, error)]
    end = attempt_end(AttemptFacts(cluster, attempts, restart=process.attempt, failures=failures))
    write_end(run, process, cluster, end.event(attempts.last_step, error.message))
