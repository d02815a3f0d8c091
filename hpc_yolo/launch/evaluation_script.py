"""The script of a job that evaluates models beside the training: one task with the environment of the run's tasks."""

from __future__ import annotations

import shlex
import sys

import msgspec

from hpc_yolo.cluster import sbatch
from hpc_yolo.core.units import is_whole_memory, parse_limit_s, parse_mem_bytes
from hpc_yolo.launch.container_job import task_command, with_runtime
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import ClusterSpec, Spec

LONGEST_S = 3600
# Options of cluster.sbatch that are about the user and the site; others are about the nodes of the training.
KEPT_OPTIONS = frozenset(
    {"clusters", "comment", "export", "export-file", "get-user-env", "nice", "reservation", "wckey"}
)


def evaluation_script(run: RunDirectory, spec: Spec) -> str:
    """Return the script of the job that evaluates models of `run`, which trains `spec`.

    Raises:
        SpecError: the runtime of its container is open, or cannot mount a path of the run.
    """
    spec = with_runtime(msgspec.structs.replace(spec, cluster=one_task(spec.cluster)))
    python = spec.cluster.python or sys.executable
    sure_python = python if "/" in python else sys.executable  # see `Plan.script`
    command = ["-m", "hpc_yolo", "evaluate-waiting", str(run.path)]
    task, container = task_command(spec, run, python, ["-u", *command])
    return sbatch.script(
        f"{spec.name}-val",
        spec.cluster,
        task,
        shlex.join([python, *command]),
        log=f"{str(run.evaluations).replace('%', '%%')}/%j.log",
        setup_record=run.setup_record,
        after_failed_setup=shlex.join([sure_python, *command]),
        container=container,
    )


def one_task(cluster: ClusterSpec) -> ClusterSpec:
    """Return the request of a job with one task of `cluster`, for an hour at most, that is not requeued."""
    limit_s = None if cluster.time is None else parse_limit_s(cluster.time)
    mem = cluster.mem
    if mem is not None and not is_whole_memory(mem):
        mem = f"{max(parse_mem_bytes(mem) // cluster.num_tasks_per_node // 2**20, 1)}M"
    return msgspec.structs.replace(
        cluster,
        nodes=1,
        tasks_per_node=1,
        gpus_per_node=min(cluster.gpus_per_node, 1),
        mem=mem,
        time=cluster.time if limit_s is not None and limit_s <= LONGEST_S else "01:00:00" if cluster.time else None,
        requeue="off",
        sbatch={name: value for name, value in cluster.sbatch.items() if name in KEPT_OPTIONS},
    )
