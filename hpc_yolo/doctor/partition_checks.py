"""Checks of a job against Slurm's partitions. A job that Slurm would accept is never refused."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hpc_yolo.cluster import sbatch, scheduler, site, slurm_command
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.sbatch_variables import split_variables
from hpc_yolo.cluster.site import Partition, SiteSettings
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.core.units import format_time
from hpc_yolo.doctor.findings import Measured, losses, obstacles, startable
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.schema import ClusterSpec


def partition_warnings(
    cluster: ClusterSpec,
    checkpoint: CheckpointSpec,
    measured: Measured | None,
    settings: SiteSettings | None = None,
) -> list[str]:
    """Return warnings about what keeps a job waiting or loses its work when it is interrupted, a line each.

    Args:
        cluster: what the job requests.
        checkpoint: when it saves.
        measured: save times of its run or of a similar one.
        settings: of the site; queried unless given.

    Raises:
        ClusterError: Slurm would refuse the job because of its partition, number of nodes or time limit.
    """
    run = slurm_command.on_cluster(cluster.slurm_cluster)
    try:
        found = site.partitions(run=run)
    except ClusterError:
        return []
    try:
        partitions = site.chosen_partitions(cluster.partitions, found)
    except ClusterError as unknown:
        require_accepted(cluster, unknown)
        return []
    with contextlib.suppress(ClusterError):
        settings = settings or site.site_settings(run=run)
    is_lifted = settings is not None and settings.enforces_limits
    return [
        *obstacle_warnings(cluster, partitions, is_lifted=is_lifted),
        *(loss_warnings(settings, partitions, cluster, checkpoint, measured) if settings is not None else []),
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
    script = sbatch.script("hpc-yolo", cluster, "true", "true", log="/dev/null")
    variables, _ = split_variables(
        clean_environment(current_environment()), sbatch.sbatch_options("hpc-yolo", cluster, "")
    )
    try:
        scheduler.estimate_start(script, run=slurm_command.with_sbatch_variables(variables))
    except SchedulerUnavailable:
        return
    except ClusterError:
        raise refusal from None


def loss_warnings(
    settings: SiteSettings,
    partitions: Sequence[Partition],
    cluster: ClusterSpec,
    checkpoint: CheckpointSpec,
    measured: Measured | None,
) -> list[str]:
    """Return warnings about what loses work when a job on `partitions` is interrupted, a line each."""
    found: dict[str, None] = {}
    for partition in startable(partitions, cluster) or (None,):
        found |= dict.fromkeys(finding.line for finding in losses(settings, partition, cluster, checkpoint, measured))
    return list(found)
