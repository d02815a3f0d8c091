"""Checks of a job against Slurm's partitions. A job that Slurm would accept is never refused."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hpc_yolo.cluster import sbatch, scheduler, site, slurm_command
from hpc_yolo.cluster.site import Partition, SiteSettings
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.cluster.slurm_output import StartEstimate
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.core.units import format_time
from hpc_yolo.doctor import find_measured, losses, obstacles, startable
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import ClusterSpec, Spec


def partition_warnings(spec: Spec) -> list[str]:
    """Return warnings about what keeps a job of `spec` waiting or loses its work when it is interrupted, a line each.

    Raises:
        ClusterError: Slurm would refuse the job because of its partition, number of nodes or time limit.
    """
    try:
        found = site.partitions(run=slurm_command.on_cluster(spec.cluster.slurm_cluster))
    except ClusterError:
        return []
    try:
        partitions = site.chosen_partitions(spec.cluster.partitions, found)
    except ClusterError as unknown:
        require_accepted(spec.cluster, unknown)
        return []
    settings = None
    with contextlib.suppress(ClusterError):
        settings = site.site_settings(run=slurm_command.on_cluster(spec.cluster.slurm_cluster))
    is_lifted = settings is not None and settings.enforces_limits
    return [
        *obstacle_warnings(spec.cluster, partitions, is_lifted=is_lifted),
        *(loss_warnings(spec, partitions, settings) if settings is not None else []),
    ]


def obstacle_warnings(cluster: ClusterSpec, partitions: Sequence[Partition], *, is_lifted: bool) -> list[str]:
    """Return warnings about why none of `partitions` would start a job of `cluster`; [] where one would.

    A quality of service may lift the limits of a partition, and sites either refuse a job over a limit or keep it
    waiting. Therefore a job that Slurm accepts yields a warning only.

    Args:
        cluster: what the job requests.
        partitions: those that the job may use.
        is_lifted: the site refuses jobs over a limit, so that an accepted job is not over it.

    Raises:
        ClusterError: Slurm would refuse the job.
    """
    found = [obstacles(partition, cluster) for partition in partitions]
    if not found or not all(found):
        return []
    reasons = [reason for reasons in found for reason in reasons]
    longest_s = max((partition.max_time_s or 0 for partition in partitions), default=0)
    hint = "request fewer --nodes, or another --partition"
    if all(reason.startswith("cluster.time") for reason in reasons):
        hint = f"request --time {format_time(longest_s)}: a run continues in the next job"
    require_accepted(cluster, ClusterError("; ".join(reasons), hint=hint))
    if is_lifted:
        return []
    return [
        f"{reason}; Slurm accepts the job, but keeps it waiting unless a QOS lifts that limit" for reason in reasons
    ]


def require_accepted(cluster: ClusterSpec, refusal: ClusterError) -> None:
    """Raise `refusal` if Slurm refuses a job of `cluster` too; return where it accepts the job or does not answer."""
    try:
        estimate_start(sbatch.script("hpc-yolo", cluster, "true", "true", log="/dev/null"))
    except SchedulerUnavailable:
        return
    except ClusterError:
        raise refusal from None


def estimate_start(script: str, options: Sequence[str] = (), *, run: Run = run_command) -> StartEstimate:
    """Return when and where Slurm would start `script` with the `options` of sbatch; nothing is queued.

    Raises:
        ClusterError: Slurm would refuse it, or does not answer.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
        file.write(script)
        file.flush()
        return scheduler.estimate_start(Path(file.name), options, run=run)


def loss_warnings(spec: Spec, partitions: Sequence[Partition], settings: SiteSettings) -> list[str]:
    """Return warnings about what loses work when a job of `spec` is interrupted, a line each."""
    measured = find_measured(RunDirectory(Path(spec.output) / spec.name), spec.model_source)
    found: dict[str, None] = {}
    for partition in startable(partitions, spec.cluster) or (None,):
        found |= dict.fromkeys(
            finding.line for finding in losses(settings, partition, spec.cluster, spec.checkpoint, measured)
        )
    return list(found)
