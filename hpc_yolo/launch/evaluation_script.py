"""The script of a job that evaluates models beside the training: one task with the environment of the run's tasks."""

from __future__ import annotations

import shlex
import sys

import msgspec

from hpc_yolo.cluster import sbatch
from hpc_yolo.cluster.stage_job import stage_cluster
from hpc_yolo.launch.container_job import task_command, with_runtime
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import StageRequest


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
    small = stage_cluster(cluster, StageRequest())
    unmailed = {name: value for name, value in small.sbatch.items() if not name.startswith("mail-")}
    return msgspec.structs.replace(small, requeue="off", sbatch=unmailed)
