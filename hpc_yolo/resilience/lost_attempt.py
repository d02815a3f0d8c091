"""The end of an attempt that has recorded none: the next attempt records it, by what Slurm's accounting holds."""

from __future__ import annotations

import contextlib

import msgspec

from hpc_yolo.cluster import scheduler
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.resilience.attempt_end import AttemptEnd, AttemptFacts, attempt_end, state_of_start
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause
from hpc_yolo.spec.schema import ClusterSpec


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
