"""Findings about a run, derived from the settings of a site and the measured save times. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from hpc_yolo.cluster import sbatch, site
from hpc_yolo.cluster.site import Partition, QosLimits, SiteSettings
from hpc_yolo.core.units import counted, format_time, parse_limit_s
from hpc_yolo.doctor.window import StopWindow, stop_window
from hpc_yolo.runs.save_times import SaveTimes
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.schema import ClusterSpec

MAX_SAVE_FRACTION = 0.4  # of the seconds of a preempted job; the rest is for steps, slow disks and Slurm
STEPS_TO_STOP = 2  # the current step, and the one in which the ranks agree
NOT_MEASURED = "not measured yet; the state of yolov5s (86 MB) took 0.15 s on a local disk"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One result. A warning means lost work or a run that cannot continue; `advice` is the remedy."""

    OK: ClassVar[str] = "ok"
    NOTE: ClassVar[str] = "note"
    WARNING: ClassVar[str] = "warning"

    level: str
    what: str
    seen: str
    why: str = ""
    advice: str = ""

    @property
    def line(self) -> str:
        """Text of the finding in one line."""
        return "; ".join(part for part in (f"{self.what}: {self.seen}", self.why, self.advice) if part)


@dataclass(frozen=True)
class Measured:
    """Save times and the run with these measurements. `is_own`: it is the run of the spec itself."""

    times: SaveTimes
    run_name: str
    is_own: bool


def site_findings(settings: SiteSettings, cluster: ClusterSpec) -> Iterator[Finding]:
    """Yield the findings that hold in all partitions of the site, for a job of `cluster`."""
    yield _requeue(settings, cluster)
    yield _launches(settings)
    yield _lost_node(settings)
    yield _dead_rank(settings)
    yield _memory_of_jobs(settings)
    if settings.sends_user_signal:
        yield Finding(
            level=Finding.NOTE,
            what="signal",
            seen=f"a preempted job gets SIG{sbatch.USER_SIGNAL} instead of SIGTERM",
            why="tasks treat it like the time limit: they save and exit in the same way",
        )


def run_findings(
    settings: SiteSettings,
    partition: Partition | None,
    qos: QosLimits | None,
    cluster: ClusterSpec,
    checkpoint: CheckpointSpec,
    measured: Measured | None,
) -> Iterator[Finding]:
    """Yield the findings about an interrupted job of `cluster` in `partition` (None: unknown)."""
    window = stop_window(settings, partition, qos)
    yield preemption(window, partition, site.choose_requeue(cluster.requeue, settings).mode)
    yield _save(window, checkpoint, measured)
    if partition is not None:
        yield _limit(partition, cluster, measured)
        if partition.state != "UP":
            yield Finding(
                level=Finding.WARNING,
                what="partition",
                seen=f"{partition.name} is {partition.state}",
                why="jobs wait in it and do not start",
                advice="choose another one with --partition NAME; see sinfo",
            )


def losses(
    settings: SiteSettings,
    partition: Partition | None,
    cluster: ClusterSpec,
    checkpoint: CheckpointSpec,
    measured: Measured | None,
) -> list[Finding]:
    """Return the warnings about lost work, without those that `obstacles` reports."""
    found = [*run_findings(settings, partition, None, cluster, checkpoint, measured), *site_findings(settings, cluster)]
    known = {"time limit"} if partition is not None and obstacles(partition, cluster) else set()
    return [finding for finding in found if finding.level == Finding.WARNING and finding.what not in known]


def startable(partitions: Sequence[Partition], cluster: ClusterSpec) -> list[Partition]:
    """Return those `partitions` whose limits allow a job of `cluster`; all of them where none does."""
    return [partition for partition in partitions if not obstacles(partition, cluster)] or list(partitions)


def obstacles(partition: Partition, cluster: ClusterSpec) -> list[str]:
    """Return the limits of `partition` that a job of `cluster` exceeds; a quality of service may lift them."""
    found = []
    if partition.num_nodes is not None and cluster.nodes > partition.num_nodes:
        nodes = counted(partition.num_nodes, "node")
        found.append(f"cluster.nodes: partition {partition.name} has {nodes}, the spec requests {cluster.nodes}")
    if cluster.time is not None and is_over(cluster.time, partition):
        limit = format_time(partition.max_time_s or 0)
        found.append(f"cluster.time: {cluster.time} is over the {limit} of partition {partition.name}")
    return found


def is_over(time: str, partition: Partition) -> bool:
    """Return whether the time limit `time` is longer than `partition` allows."""
    limit_s = parse_limit_s(time)
    return partition.max_time_s is not None and (limit_s is None or limit_s > partition.max_time_s)


def preemption(window: StopWindow, partition: Partition | None, mode: str) -> Finding:
    """Return the finding about preemption. `mode`: how an interrupted run continues."""
    where = f"partition {partition.name}" if partition is not None else "here"
    ok = Finding(level=Finding.OK, what="preemption", seen=f"{where}: a preempted job has {window.breakdown}")
    if not window.is_sure:
        seen = f"{where}: a preempted job has at least {window.breakdown}"
        why = "the site preempts by quality of service, and the grace time of the job's is unknown"
        ok = replace_finding(ok, level=Finding.NOTE, seen=seen, why=why, advice="set it: --qos NAME")
    if window.mode == "none":
        seen = f"{where}: jobs are not preempted; one that is requeued or cancelled by hand has {window.breakdown}"
        return replace_finding(ok, level=Finding.OK, seen=seen, why="", advice="")
    if window.mode == "suspend":
        why = "it keeps its memory and continues later; nothing needs to be saved"
        return replace_finding(ok, level=Finding.NOTE, seen=f"{where}: a preempted job is suspended", why=why)
    if mode == "off":
        why = "it saves and ends, since cluster.requeue is off"
        advice = "submit again to continue, or set cluster.requeue: auto"
        return replace_finding(ok, level=Finding.NOTE, why=why, advice=advice)
    if mode == "chain":
        return replace_finding(ok, why=ok.why or "it saves and ends, and its successor in the chain continues")
    if window.mode == "cancel":
        # Without grace time the job is COMPLETING from the first signal on, like a cancelled one.
        return replace_finding(
            ok,
            level=Finding.NOTE if window.grace_s or not window.is_sure else Finding.WARNING,
            why="then Slurm cancels it: the run continues only if it was saved and requeued before",
            advice="cluster.requeue: chain, which queues a successor in time; or a partition with a longer GraceTime",
        )
    return replace_finding(ok, why=ok.why or "it saves and is requeued; if it does not finish that, Slurm requeues it")


def replace_finding(finding: Finding, **changes: str) -> Finding:
    """Return `finding` with some fields changed."""
    return msgspec.structs.replace(finding, **changes)


def _save(window: StopWindow, checkpoint: CheckpointSpec, measured: Measured | None) -> Finding:
    """Return the finding about whether a measured stop fits into the window."""
    if measured is None:
        advice = "run doctor again after the first save"
        return Finding(level=Finding.NOTE, what="save time", seen=NOT_MEASURED, advice=advice)
    times = measured.times
    of_run = "" if measured.is_own else f" in run {measured.run_name}"
    size = f"{times.size_bytes / 1e6:.0f} MB"
    seen = (
        f"{times.save_s:.2f} s{of_run} for {size} (the longest of the last saves)"
        f"{f', the slowest step {times.step_s:.2f} s' if times.step_s else ''}"
    )
    if window.mode == "suspend":
        return Finding(level=Finding.OK, what="save time", seen=seen)
    limit_s = MAX_SAVE_FRACTION * window.seconds
    stop_s = STEPS_TO_STOP * times.step_s + times.save_s
    if times.save_s <= limit_s and stop_s <= window.seconds:
        why = f"fits: a save may take {MAX_SAVE_FRACTION:.0%} of the {window.seconds} s, {limit_s:.1f} s"
        return Finding(level=Finding.OK, what="save time", seen=seen, why=why)
    if times.save_s > limit_s:
        why = f"too long: a save may take {MAX_SAVE_FRACTION:.0%} of the {window.seconds} s, {limit_s:.1f} s"
    else:
        why = f"too long: up to {STEPS_TO_STOP} steps and a save take {stop_s:.1f} s of the {window.seconds} s"
    return Finding(
        level=Finding.NOTE if window.mode == "none" else Finding.WARNING,
        what="save time",
        seen=seen,
        why=f"{why}; the steps since the last checkpoint would be lost",
        advice=_faster(checkpoint.every_s, is_save=times.save_s > limit_s),
    )


def _faster(every_s: int | None, *, is_save: bool) -> str:
    """Return what to change where stopping takes too long."""
    first = "output on a faster file system" if is_save else "a smaller train.batch"
    then = "" if every_s is None else f", now {every_s}"
    return f"{first}; a partition with a longer GraceTime; or a smaller checkpoint.every_s{then}, so that less is lost"


def _limit(partition: Partition, cluster: ClusterSpec, measured: Measured | None) -> Finding:
    """Return the finding about the time limit and the signal before it."""
    own_times = measured.times if measured is not None and measured.is_own else None
    before_s = sbatch.signal_before_s(cluster, own_times)
    ok = Finding(
        level=Finding.OK,
        what="time limit",
        seen=f"{cluster.time}, SIG{sbatch.USER_SIGNAL} {before_s} s before it",
        why="the signal may come up to 60 s earlier"
        if own_times is not None
        else "nothing was measured in this run yet",
    )
    if cluster.time is not None:
        if not is_over(cluster.time, partition):
            return ok
        allowed = format_time(partition.max_time_s or 0)
        return replace_finding(
            ok,
            level=Finding.WARNING,
            seen=f"{cluster.time} is over the {allowed} of partition {partition.name}",
            why="Slurm would refuse the job or keep it waiting",
            advice=f"cluster.time: {allowed}; a run continues in the next job",
        )
    limit_s = partition.default_time_s or partition.max_time_s
    if limit_s is None:
        return replace_finding(ok, seen=f"none in partition {partition.name}", why="")
    seen = f"{format_time(limit_s)} of partition {partition.name}, since cluster.time is not set"
    if before_s * 2 <= limit_s:
        return replace_finding(ok, seen=f"{seen}; SIG{sbatch.USER_SIGNAL} {before_s} s before it")
    return replace_finding(
        ok,
        level=Finding.WARNING,
        seen=f"{seen}; SIG{sbatch.USER_SIGNAL} {before_s} s before it",
        why="most of every job would be after the signal",
        advice=f"cluster.time: {format_time(limit_s)}, from which the time of the signal is derived, or a longer one",
    )


def _requeue(settings: SiteSettings, cluster: ClusterSpec) -> Finding:
    """Return the finding about how an interrupted run continues, and after how many seconds."""
    choice = site.choose_requeue(cluster.requeue, settings)
    chosen = f"{choice.mode} (cluster.requeue is auto)" if cluster.requeue == "auto" else choice.mode
    ok = Finding(level=Finding.OK, what="requeue", seen=f"an interrupted run continues by {chosen}", why=choice.why)
    if choice.mode == "off":
        return replace_finding(ok, seen="an interrupted run ends: cluster.requeue is off", why="")
    if choice.mode == "chain":
        return ok
    if choice.mode == "expedite" and not settings.expedites:
        advice = "cluster.requeue: auto chooses the fastest supported way"
        return replace_finding(ok, level=Finding.WARNING, why=f"it {site.NO_EXPEDITE}", advice=advice)
    if settings.submit_plugins:
        return replace_finding(
            ok,
            level=Finding.NOTE,
            why=f"{choice.why}; the site's {settings.submit_plugins} plugin may remove --requeue from a job",
            advice="if scontrol show job has Requeue=0, set cluster.requeue: chain, which does not need it",
        )
    if settings.requeue_wait_s > site.CHAIN_WAIT_S and choice.mode == "requeue":
        advice = "cluster.requeue: auto or chain waits less"
        return replace_finding(
            ok, level=Finding.NOTE, why=f"{choice.why}; nodes may be idle in this time", advice=advice
        )
    return ok


def _launches(settings: SiteSettings) -> Finding:
    return Finding(
        level=Finding.OK,
        what="launches",
        seen=f"Slurm holds a job after it has requeued it itself {settings.max_requeues} times",
        why="requeues by hpc-yolo do not count; hpc-yolo status shows the reason, scontrol release frees the job",
    )


def _lost_node(settings: SiteSettings) -> Finding:
    if settings.slurmd_timeout_s == 0:
        return Finding(
            level=Finding.NOTE,
            what="lost node",
            seen="SlurmdTimeout=0: Slurm never sets a node without response down",
            why="the other ranks end the attempt (train.stall_timeout_s), but the job may keep that node",
        )
    seen = f"a node without response for {settings.slurmd_timeout_s} s is down (SlurmdTimeout), its jobs are requeued"
    return Finding(level=Finding.OK, what="lost node", seen=seen)


def _dead_rank(settings: SiteSettings) -> Finding:
    seen = f"KillOnBadExit={int(settings.kills_on_bad_exit)}"
    why = "no effect: the srun of the job has --kill-on-bad-exit=1"
    return Finding(level=Finding.OK, what="dead rank", seen=seen, why=why)


def _memory_of_jobs(settings: SiteSettings) -> Finding:
    """Return the finding about how long Slurm keeps records of a job that has ended."""
    if settings.has_accounting:
        seen = f"squeue lists an ended job for {settings.min_job_age_s} s, accounting keeps it"
        return Finding(level=Finding.OK, what="old jobs", seen=seen)
    return Finding(
        level=Finding.NOTE,
        what="old jobs",
        seen=f"no accounting: Slurm forgets a job {settings.min_job_age_s} s after its end (MinJobAge)",
        why="then only the journal has the cause of an end; an attempt without an end event counts as killed",
    )
