"""What Slurm says about a planned job: limits of its partitions, when it would start, and why jobs of its run wait."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hpc_yolo.cluster import scheduler, site, slurm_command
from hpc_yolo.cluster.jobs import alive_jobs, current_jobs
from hpc_yolo.cluster.node_types import NodeType, parse_node_types
from hpc_yolo.cluster.pending_reasons import reason_text
from hpc_yolo.cluster.site import Partition
from hpc_yolo.cluster.start_estimates import Way, WayStart, ask_starts, ways_to_ask, with_gpus
from hpc_yolo.core.errors import ClusterError, HpcYoloError
from hpc_yolo.doctor.findings import obstacles
from hpc_yolo.launch.plan import Plan
from hpc_yolo.runs.directory import RunDirectory


@dataclass(frozen=True)
class SiteLimits:
    """Limits of the partitions that a job may use.

    Attributes:
        partitions: of the site, by name; {} where Slurm did not list them.
        default_s: time limit of a job that requests none; None: none, or not known.
        longest_s: the longest time limit; None: any, or not known.
        problems: the limits that the job exceeds in all of its partitions, a clause each.
    """

    partitions: Mapping[str, Partition] = field(default_factory=dict)
    default_s: int | None = None
    longest_s: int | None = None
    problems: tuple[str, ...] = ()


def site_limits(plan: Plan) -> SiteLimits:
    """Return the limits for the job of `plan`.

    Raises:
        ClusterError: there is no partition of that name.
    """
    try:
        found = site.partitions(run=_run(plan))
    except ClusterError:
        return SiteLimits()
    chosen = site.chosen_partitions(plan.spec.cluster.partitions, found)
    limits = [one.max_time_s for one in chosen]
    exceeded = [obstacles(one, plan.spec.cluster) for one in chosen]
    return SiteLimits(
        partitions=found,
        default_s=next((one.default_time_s or one.max_time_s for one in chosen), None),
        longest_s=None if None in limits else max((limit for limit in limits if limit is not None), default=None),
        problems=tuple(reason for reasons in exceeded for reason in reasons) if all(exceeded) else (),
    )


def ask_queue(
    plan: Plan,
    limits: SiteLimits,
    *,
    time: str | None = None,
    other_gpus: Sequence[Way] = (),
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[WayStart]:
    """Return when Slurm would start the job of `plan`, for each way to ask for it; nothing is queued.

    Args:
        plan: of a Slurm job.
        limits: of `site_limits`.
        time: another time limit that would be enough.
        other_gpus: requests for other types of GPU, by the site profile.
        on_progress: called with (number of answers, number of questions).
    """
    assert plan.script is not None
    qos: list[str] = []
    with contextlib.suppress(ClusterError):
        qos = scheduler.show_user_qos(getpass.getuser(), site.QUERY_TIMEOUT_S, run=_run(plan))
    partitions = with_gpus(plan.spec.cluster, limits.partitions, _node_types(plan))
    ways = ways_to_ask(plan.spec.cluster, plan.spec.train.batch, partitions, qos, time=time, first=other_gpus)
    sbatch = slurm_command.with_sbatch_variables(plan.variables)
    return list(ask_starts(ways, plan.script, plan.sbatch_options, run=sbatch, on_progress=on_progress))


def _node_types(plan: Plan) -> list[NodeType]:
    """Return the kinds of nodes of the cluster; none where Slurm does not list them."""
    with contextlib.suppress(ClusterError):
        return parse_node_types(scheduler.show_node_types(site.QUERY_TIMEOUT_S, run=_run(plan)))
    return []


def waiting_jobs(run: RunDirectory) -> list[str]:
    """Return a sentence for each job of `run` that waits in the queue now: why it does."""
    found = []
    with contextlib.suppress(HpcYoloError):
        for job in alive_jobs(current_jobs(run)) if run.exists else ():
            state = job.state(scheduler.PROMPT_TIMEOUT_S)
            if state.is_waiting:
                found.append(f"{job.name}: {reason_text(state.reason) or 'Slurm gives no reason'}")
    return found


def _run(plan: Plan) -> slurm_command.Run:
    return slurm_command.on_cluster(plan.spec.cluster.slurm_cluster)
