"""A spec as an sbatch script. The one place where flags are chosen: submit, dry-run, render and the templates follow.

Why each flag is there: docs/slurm.md.
"""

from __future__ import annotations

import math
import shlex

from hpc_yolo.quantities import parse_time_s
from hpc_yolo.runs.save_times import SaveTimes
from hpc_yolo.spec.schema import ClusterSpec, Spec

DEFAULT_SIGNAL_LEAD_S = 120
SLOW_SAVE_FACTOR = 3  # a shared file system has slower moments than those that were measured
REQUEUE_MARGIN_S = 30  # a busy controller takes as long to answer `scontrol requeue`
SRUN_WAIT_S = 60
USER_SIGNAL = "USR2"  # NCCL once swallowed USR1


def script(spec: Spec, task: str, afterwards: str, *, log: str, save_times: SaveTimes | None = None) -> str:
    """The whole script: flags, setup lines, environment, one srun with one task a GPU, and what follows it.

    Args:
        task: what every task runs, as shell text.
        afterwards: the command that decides what becomes of the job, as shell text; it is told srun's exit code.
        log: file of the job's and all tasks' output, each line with its rank; %j is the job id.
        save_times: what was measured in the run so far; see `signal_lead_s`.
    """
    cluster = spec.cluster
    lines = ["#!/bin/bash", *flag_lines(sbatch_options(spec, log, save_times))]
    if cluster.setup:
        lines += ["", *cluster.setup]
    if cluster.env:
        lines += ["", *(f"export {name}={shlex.quote(value)}" for name, value in cluster.env.items())]
    srun = f"{shlex.join(srun_words(cluster))} {task}"
    return "\n".join([*lines, "", srun, f"exec {afterwards} --exit-code $?", ""])


def sbatch_options(spec: Spec, log: str, save_times: SaveTimes | None = None) -> dict[str, str | bool]:
    """Long sbatch options and their values, in the order of the script; True is a flag without a value."""
    cluster = spec.cluster
    options: dict[str, str | bool | None] = {
        "job-name": spec.name,
        "nodes": str(cluster.nodes),
        "ntasks-per-node": str(cluster.num_tasks_per_node),
        **gpu_options(cluster),
        "cpus-per-task": str(cluster.cpus_per_task),
        "mem": cluster.mem,
        "mem-per-cpu": cluster.mem_per_cpu,
        "mem-per-gpu": cluster.mem_per_gpu,
        "time": cluster.time,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": ",".join(cluster.exclude) or None,
        "requeue" if cluster.requeue == "requeue" else "no-requeue": True,
        "open-mode": "append",
        "signal": f"{USER_SIGNAL}@{signal_lead_s(cluster, save_times)}",
        "output": log,
    }
    for name, value in cluster.sbatch.items():
        options[name] = value if isinstance(value, bool) or value is None else str(value)
    return {name: value for name, value in options.items() if value is not None and value is not False}


def gpu_options(cluster: ClusterSpec) -> dict[str, str | bool | None]:
    """GPUs of a node: every task sees all of them and takes the one of its local rank, so that NCCL finds its peers."""
    if cluster.gpus_per_node == 0:
        return {}
    gpus = str(cluster.gpus_per_node)
    typed = f"{cluster.gpu_type}:{gpus}" if cluster.gpu_type else gpus
    if cluster.gpu_request == "gres":
        return {"gres": f"gpu:{typed}"}
    return {"gpus-per-node": typed}


def signal_lead_s(cluster: ClusterSpec, save_times: SaveTimes | None) -> int:
    """Seconds before the time limit at which Slurm warns the tasks; at most half of the limit.

    Without a figure in the spec it is the slowest step, three times the longest save, and time to be requeued. Slurm
    may warn up to a minute earlier, which costs that minute and nothing else; a warning that comes late is followed by
    SIGTERM at the limit.
    """
    if isinstance(cluster.signal_lead, int):
        return cluster.signal_lead
    lead_s = DEFAULT_SIGNAL_LEAD_S
    if save_times is not None:
        lead_s = math.ceil(SLOW_SAVE_FACTOR * save_times.save_s + save_times.step_s) + REQUEUE_MARGIN_S
    return lead_s if cluster.time is None else min(lead_s, parse_time_s(cluster.time) // 2)


def srun_words(cluster: ClusterSpec) -> list[str]:
    """srun and its arguments: a dead rank ends the job, and tasks get the CPUs that sbatch was asked for."""
    return [
        "srun",
        "--unbuffered",
        "--label",
        "--kill-on-bad-exit=1",
        f"--wait={SRUN_WAIT_S}",
        f"--cpus-per-task={cluster.cpus_per_task}",  # not inherited from sbatch since Slurm 22.05
    ]


def flag_lines(options: dict[str, str | bool]) -> list[str]:
    """`options` as #SBATCH lines."""
    return [
        f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"
        for name, value in options.items()
    ]
