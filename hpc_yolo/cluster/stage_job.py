"""The Slurm job of one stage after the training: its request and its script."""

from __future__ import annotations

import msgspec

from hpc_yolo.cluster.sbatch import batch_script, sbatch_options
from hpc_yolo.core.units import is_whole_memory, parse_limit_s, parse_mem_bytes
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.spec.stages import StageRequest

LONGEST_DEFAULT_S = 3600
# Options of cluster.sbatch that are about the user and the site. The others are about the nodes of the training.
KEPT_OPTIONS = frozenset(
    (
        *("chdir", "clusters", "comment", "export", "export-file", "get-user-env", "mail-type", "mail-user"),
        *("mcs-label", "nice", "propagate", "reservation", "wckey"),
    )
)


def stage_cluster(cluster: ClusterSpec, request: StageRequest) -> ClusterSpec:
    """Return the request of a stage of a run with `cluster`: one task on one node, and what `request` sets."""
    gpus = min(1, cluster.gpus_per_node) if request.gpus_per_node is None else request.gpus_per_node
    memory = {"mem": request.mem, "mem_per_cpu": None, "mem_per_gpu": None}
    if request.mem is None:
        memory |= {"mem": _memory_of_task(cluster), "mem_per_cpu": cluster.mem_per_cpu}
        memory |= {"mem_per_gpu": cluster.mem_per_gpu if gpus else None}
    return msgspec.structs.replace(
        cluster,
        nodes=1,
        tasks_per_node=1,
        gpus_per_node=gpus,
        gpu_type=request.gpu_type or (cluster.gpu_type if gpus else None),
        cpus_per_task=request.cpus_per_task or cluster.cpus_per_task,
        **memory,
        time=request.time or _default_time(cluster),
        partition=request.partition or cluster.partition,
        account=request.account or cluster.account,
        qos=request.qos or cluster.qos,
        constraint=request.constraint or cluster.constraint,
        requeue="requeue",
        sbatch={name: value for name, value in cluster.sbatch.items() if name in KEPT_OPTIONS},
    )


def stage_options(name: str, cluster: ClusterSpec, log: str) -> dict[str, str | bool]:
    """Return the long options of sbatch for a stage with the request `cluster`; nothing in it expects a signal."""
    options = sbatch_options(name, cluster, log)
    return {option: value for option, value in options.items() if option != "signal"}


def stage_script(
    name: str, cluster: ClusterSpec, command: str, *, log: str, setup_record: str, after_failed_setup: str
) -> str:
    """Return the script of a stage with the request `cluster`.

    Args:
        name: of the job.
        cluster: from `stage_cluster`.
        command: of the stage, as shell text.
        log: file for the output; %j is the job id.
        setup_record, after_failed_setup: see `sbatch.script`.
    """
    return batch_script(
        stage_options(name, cluster, log),
        cluster,
        [command],
        setup_record=setup_record,
        after_failed_setup=after_failed_setup,
    )


def _memory_of_task(cluster: ClusterSpec) -> str | None:
    """Return the part of `cluster.mem` that one task of the run has; all of a node's stays all."""
    if cluster.mem is None or is_whole_memory(cluster.mem):
        return cluster.mem
    return f"{max(parse_mem_bytes(cluster.mem) // cluster.num_tasks_per_node // 2**20, 1)}M"


def _default_time(cluster: ClusterSpec) -> str | None:
    """Return the time limit of the run, at most an hour; None where the partition has the only one."""
    limit_s = None if cluster.time is None else parse_limit_s(cluster.time)
    if cluster.time is None or (limit_s is not None and limit_s <= LONGEST_DEFAULT_S):
        return cluster.time
    return "01:00:00"
