"""How many seconds a job has between the word to stop and its end. Pure: settings in, seconds and words out."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_yolo.cluster.site import LEAST_KILL_WAIT_S, Partition, QosLimits, SiteSettings


@dataclass(frozen=True)
class StopWindow:
    """What a preempted job has, or, where jobs are not preempted, one that is requeued or cancelled by a person.

    Attributes:
        mode: what preemption does to a job: none, requeue, cancel or suspend.
        grace_s: before the kill begins, in which the job still counts as running.
        seconds: from the first signal to SIGKILL, the grace included.
        sum_words: how the seconds add up.
        is_sure: False where the grace of the job's quality of service is not known, and the seconds leave it out.
    """

    mode: str
    grace_s: int
    seconds: int
    sum_words: str
    is_sure: bool = True


def stop_window(settings: SiteSettings, partition: Partition | None, qos: QosLimits | None) -> StopWindow:
    """The window of a job in `partition`, with the quality of service `qos`; None for what is not known."""
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
    words = f"{kill_wait_s} s of KillWait"
    if kill_wait_s != settings.kill_wait_s:
        words += f" (set to {settings.kill_wait_s}; Slurm waits {LEAST_KILL_WAIT_S} at least)"
    if grace_s:
        words = f"{grace_s} s of grace + {words} = {grace_s + kill_wait_s} s"
    return StopWindow(kind, grace_s, grace_s + kill_wait_s, words, is_sure)


def _kind(mode: str) -> str:
    """none, requeue, cancel or suspend for a mode such as REQUEUE,WITHIN or GANG,SUSPEND."""
    for kind in ("requeue", "cancel", "suspend"):
        if kind.upper() in mode.split(","):
            return kind
    return "none"
