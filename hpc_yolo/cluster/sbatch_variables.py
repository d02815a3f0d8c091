"""The SBATCH_ variables of the user's shell, which take precedence over the #SBATCH lines of a script."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping

import msgspec

from hpc_yolo.core.units import parse_limit_s
from hpc_yolo.spec.schema import ClusterSpec

PREFIX = "SBATCH_"
# Variables on which checks, the signal before the time limit, and jobs that are queued later from inside of a job
# depend, by the field of the spec that they stand for.
REQUESTS = {
    "account": "SBATCH_ACCOUNT",
    "partition": "SBATCH_PARTITION",
    "qos": "SBATCH_QOS",
    "time": "SBATCH_TIMELIMIT",
}

# By option of a script: the variables that would override or contradict it.
_MEMORY = ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU")
_OF_OPTION: Mapping[str, tuple[str, ...]] = {
    "account": ("ACCOUNT",),
    "acctg-freq": ("ACCTG_FREQ",),
    "batch": ("BATCH",),
    "bb": ("BURST_BUFFER",),
    "cluster-constraint": ("CLUSTER_CONSTRAINT",),
    "consolidate-segments": ("CONSOLIDATE_SEGMENTS",),
    "constraint": ("CONSTRAINT",),
    "container": ("CONTAINER",),
    "core-spec": ("CORE_SPEC", "THREAD_SPEC"),
    "thread-spec": ("CORE_SPEC", "THREAD_SPEC"),
    "cpu-freq": ("CPU_FREQ_REQ",),
    "cpus-per-task": ("CPUS_PER_GPU", "TRES_PER_TASK"),
    "delay-boot": ("DELAY_BOOT",),
    "distribution": ("DISTRIBUTION",),
    "exclusive": ("EXCLUSIVE",),
    "oversubscribe": ("EXCLUSIVE",),
    "export": ("EXPORT",),
    "get-user-env": ("GET_USER_ENV",),
    "gpu-bind": ("GPU_BIND",),
    "gpu-freq": ("GPU_FREQ",),
    "gres-flags": ("GRES_FLAGS",),
    "hint": ("HINT",),
    "input": ("INPUT",),
    "mem": _MEMORY,
    "mem-per-cpu": _MEMORY,
    "mem-per-gpu": _MEMORY,
    "mem-bind": ("MEM_BIND",),
    "network": ("NETWORK",),
    "no-kill": ("NO_KILL",),
    "overcommit": ("OVERCOMMIT",),
    "partition": ("PARTITION",),
    "power": ("POWER",),
    "profile": ("PROFILE",),
    "qos": ("QOS",),
    "reservation": ("RESERVATION",),
    "segment": ("SEGMENT_SIZE",),
    "spread-job": ("SPREAD_JOB",),
    "spread-segments": ("SPREAD_SEGMENTS",),
    "switches": ("REQ_SWITCH", "WAIT4SWITCH"),
    "threads-per-core": ("THREADS_PER_CORE",),
    "time": ("TIMELIMIT",),
    "tres-bind": ("TRES_BIND",),
    "use-min-nodes": ("USE_MIN_NODES",),
    "wait-all-nodes": ("WAIT_ALL_NODES",),
    "wckey": ("WCKEY",),
}
# Always set by a spec: number of tasks and GPUs, output file, requeueing. The others change how sbatch itself works.
_NEVER = frozenset(
    {"ARRAY_INX", "CLUSTERS", "ERROR", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "WAIT"}
    | {"GPUS", "GPUS_PER_NODE", "GPUS_PER_SOCKET", "GPUS_PER_TASK", "GRES"}
)


def split_variables(environ: Mapping[str, str], options: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Divide the SBATCH_ variables in `environ` for a script that has `options` (long names).

    Returns:
        Those that apply, and those that must not reach sbatch because the script has another value.
    """
    overridden = _NEVER.union(*(_OF_OPTION.get(option, ()) for option in options))
    found = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    ignored = {name: value for name, value in found.items() if name.removeprefix(PREFIX) in overridden}
    return {name: value for name, value in found.items() if name not in ignored}, ignored


def with_requests(cluster: ClusterSpec, variables: Mapping[str, str]) -> ClusterSpec:
    """Return `cluster` with account, partition, QOS and time limit of `variables`, each where it has none itself."""
    found = {field: variables[name] for field, name in REQUESTS.items() if variables.get(name)}
    requested = {field: value for field, value in found.items() if getattr(cluster, field) is None}
    with contextlib.suppress(ValueError):  # sbatch refuses a limit that is no time
        parse_limit_s(requested.get("time", "1"))
        return msgspec.structs.replace(cluster, **requested)
    return cluster
