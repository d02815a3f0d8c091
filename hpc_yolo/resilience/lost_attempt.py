"""The end of an attempt that has recorded none: the next attempt records it, by what Slurm's accounting holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import ClusterError, TrainingError
from hpc_yolo.resilience.attempt_end import AttemptEnd, AttemptFacts, attempt_end, state_of_start
from hpc_yolo.resilience.chain import predecessor
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause
from hpc_yolo.spec.schema import ClusterSpec


def record_lost_attempt(
    run: RunDirectory,
    limits: ClusterSpec,
    process: ProcessInfo,
    attempts: Attempts,
    write: Callable[[int, AttemptEnded], None],
) -> None:
    """Record the end of the newest attempt, if that is missing.

    Args:
        run: the run, whose next attempt this process begins.
        limits: how often attempts may end by which cause.
        process: this process.
        attempts: the journal.
        write: writes the event of the attempt of that number.

    Raises:
        TrainingError: the earlier attempts have used up the limits.
    """
    if (lost := attempts.lost) is None:
        return
    end, ended = end_of_lost_attempt(lost, attempts, limits)
    write(lost.attempt, ended)
    if process.job_id is not None and not end.goes_on and lost.job_id in own_jobs(run, process.job_id):
        raise TrainingError(
            f"this run is not resumed: {end.reason}", hint="remove the cause, then submit the spec again"
        )


def own_jobs(run: RunDirectory, job_id: str) -> tuple[str | None, ...]:
    """Return job `job_id` and the one it follows: the jobs since the run was last submitted by a person."""
    before = predecessor(run, job_id)
    return (job_id,) if before is None else (job_id, before)


def end_of_lost_attempt(
    started: AttemptStarted, attempts: Attempts, limits: ClusterSpec
) -> tuple[AttemptEnd, AttemptEnded]:
    """Return the end of the attempt that `started`, and its event for the journal, from Slurm's accounting.

    The event records that the run continues, since it is written by the attempt that follows.
    """
    state, nodes = "", list[str]()
    if started.job_id is not None and started.launcher == "slurm":
        with contextlib.suppress(ClusterError):
            state = state_of_start(scheduler.earlier_attempts(started.job_id), started.time)
    end = attempt_end(AttemptFacts(limits, attempts, started.attempt, lost_state=state))
    if end.cause == Cause.NODE_FAILURE:
        with contextlib.suppress(ClusterError):
            nodes = scheduler.nodes_down({rank.host for rank in started.ranks})
    named = f" ({', '.join(nodes)})" if nodes else ""
    detail = f"no record of its end: {end.cause}{named}"
    ended = end.event(attempts.last_step, detail, epoch=started.epoch, failed_nodes=nodes)
    return end, msgspec.structs.replace(ended, requeued=True)
