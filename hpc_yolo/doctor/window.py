"""The time of a job between the first signal and SIGKILL, computed from the settings of the site."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_yolo.cluster.site import LEAST_KILL_WAIT_S, Partition, QosLimits, SiteSettings


@dataclass(frozen=True)
class StopWindow:
    """Time of a preempted job; without preemption, of a job that is requeued or cancelled by hand.

    Attributes:
        mode: effect of preemption on a job: none, requeue, cancel or suspend.
        grace_s: grace time, in which the job still counts as running.
        seconds: from the first signal to SIGKILL, grace time included.
        breakdown: how the seconds add up, for messages.
        is_sure: False where the grace time of the job's quality of service is unknown, and the seconds exclude it.
    """

    mode: str
    grace_s: int
    seconds: int
    breakdown: str
    is_sure: bool = True


def stop_window(settings: SiteSettings, partition: Partition | None, qos: QosLimits | None) -> StopWindow:
    """Return the window of a job in `partition` with the quality of service `qos`; None where unknown."""
    grace_s, mode, is_sure = 0, settings.preempt_mode, True
    if settings.preempt_type == "none":
        mode = "OFF"
    elif settings.preempt_type == "qos":
        is_sure = qos is not None
        if qos is not None:
            grace_s = qos.grace_s
            mode = settings.preempt_mode if qos.preempt_mode == "CLUSTER" else qos.preempt_mode
    elif partition is not None:
        grace_s, mode = partition.grace_s, partition.preempt_mode
    kind = _kind(mode)
    if kind in ("none", "suspend"):
        grace_s = 0
    kill_wait_s = max(settings.kill_wait_s, LEAST_KILL_WAIT_S)
    breakdown = f"{kill_wait_s} s of KillWait"
    if kill_wait_s != settings.kill_wait_s:
        breakdown += f" (set to {settings.kill_wait_s}; Slurm waits at least {LEAST_KILL_WAIT_S})"
    if grace_s:
        breakdown = f"{grace_s} s of grace + {breakdown} = {grace_s + kill_wait_s} s"
    return StopWindow(kind, grace_s, grace_s + kill_wait_s, breakdown, is_sure)


def _kind(mode: str) -> str:
    """Return none, requeue, cancel or suspend for a mode such as REQUEUE,WITHIN or GANG,SUSPEND."""
    for kind in ("requeue", "cancel", "suspend"):
        if kind.upper() in mode.split(","):
            return kind
    return "none"
