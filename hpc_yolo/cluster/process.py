"""Rank, world size and host of rank 0 of this process, as the launcher's environment variables define them.

`ProcessInfo.from_env` is a pure function of a mapping. The innermost launcher counts: torchrun, then submitit's local
executor, then the Slurm step. Inside either of the last two, RANK and similar variables count only where torchrun
itself has set them; elsewhere they may have been set by hand. Without a launcher (also in the body of a batch script
or a shell of salloc) the process is alone. `current_environment` is the one function that reads `os.environ`.

A variable of Slurm that is not a number is ignored where another one has the same value or nothing depends on it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from hpc_yolo.cluster.hostlist import first_host
from hpc_yolo.core.errors import ClusterError

Launcher = Literal["torchrun", "slurm", "submitit-local", "single"]

LOOPBACK = "127.0.0.1"
NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
# Steps above this number were not started by srun: batch script, external processes, salloc's interactive shell. Slurm
# 26.05 and newer print them as negative numbers.
LAST_SRUN_STEP = 0xFFFF_FFF0
NOT_DISTRIBUTED = ("", "-1")  # values of RANK that scripts export where there is no rank
_JOB_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMI2_", "PMIX_", "SUBMITIT_LOCAL_")
_REQUEST_PREFIXES = ("SBATCH_", "SALLOC_")
_TORCHRUN_PREFIXES = (
    *("TORCHELASTIC_", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
)
_TASKS_PER_NODE = re.compile(r"(?P<tasks>\d+)(?:\(x(?P<nodes>\d+)\))?")


@dataclass(frozen=True)
class ProcessInfo:
    """Position of this process among all tasks of a job.

    The node rank counts nodes, the local rank counts tasks on this node; both begin at 0.

    Attributes:
        master_addr: name or address of the host of rank 0; the loopback where all ranks are on one node.
        is_addr_set: `master_addr` is the value of MASTER_ADDR rather than the launcher's.
        master_port: the value of MASTER_PORT; None leaves the choice to rank 0 (see `ports.candidate_ports`).
        host: name of this node according to the launcher; None where the launcher does not set it.
        job_id: as Slurm's commands accept it, `123` or `123_4` in an array; for submitit-local the process id of its
            controller; for torchrun outside Slurm its run id, if it has one.
        step_id: of srun; a job may train in several steps, one after the other.
        attempt: 1 at first, one more with each requeue.
    """

    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    num_nodes: int
    master_addr: str
    master_port: int | None
    launcher: Launcher
    host: str | None = None
    job_id: str | None = None
    attempt: int = 1
    is_addr_set: bool = False
    step_id: int | None = None

    def __post_init__(self) -> None:
        for name, value, size_name, size in (
            ("rank", self.rank, "world size", self.world_size),
            ("local rank", self.local_rank, "number of tasks on the node", self.local_world_size),
            ("node rank", self.node_rank, "number of nodes", self.num_nodes),
        ):
            if not 0 <= value < size:
                variable, size_variable = _variables(self.launcher, name)
                raise ClusterError(
                    f"{variable} gives {name} {value}, but {size_variable} gives a {size_name} of {size}; "
                    f"allowed are 0 to {size - 1}",
                    hint="check for variables of another job, and start the task with srun or torchrun",
                )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> ProcessInfo:
        """Return the position that the launcher's variables in `environ` define.

        Raises:
            ClusterError: they are incomplete or contradict each other; the message names the variable.
        """
        if _is_torchrun_worker(environ):
            return _from_torchrun(environ)
        if environ.get("SUBMITIT_EXECUTOR", "local") == "local" and "SUBMITIT_LOCAL_GLOBALID" in environ:
            return _from_submitit_local(environ)
        if _is_srun_task(environ):
            return _from_slurm_step(environ)
        if any(environ.get(name, "") not in NOT_DISTRIBUTED for name in ("RANK", "LOCAL_RANK")) or (
            _optional_number(environ, "WORLD_SIZE", least=2) is not None
        ):
            return _from_torchrun(environ)
        return cls.alone(environ)

    @classmethod
    def alone(cls, environ: Mapping[str, str]) -> ProcessInfo:
        """Return this process as the only one of its job; variables that define ranks are ignored.

        Used by processes that run beside the tasks of a job, such as the last line of its batch script.
        """
        return cls(0, 0, 0, 1, 1, 1, LOOPBACK, None, "single", job_id=_slurm_job_id(environ), attempt=_attempt(environ))


def current_environment() -> Mapping[str, str]:
    """Return a copy of the environment of this process."""
    return dict(os.environ)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without the variables of a surrounding job or torchrun, so that a new job does not inherit them.

    SLURM_CONF is kept, since it locates Slurm. SBATCH_* and SALLOC_* are removed inside a job only: on a login node
    they are the user's own defaults, such as the account.
    """
    leaking = _JOB_PREFIXES + (_REQUEST_PREFIXES if "SLURM_JOB_ID" in environ else ())
    leaking += _TORCHRUN_PREFIXES if "TORCHELASTIC_RUN_ID" in environ else ()
    kept = {name: value for name, value in environ.items() if not name.startswith(leaking)}
    kept.pop("SUBMITIT_EXECUTOR", None)
    return kept | {name: environ[name] for name in ("SLURM_CONF",) if name in environ}


def chosen_threads(environ: Mapping[str, str], launcher: Launcher) -> int | None:
    """Return the number of threads that OMP_NUM_THREADS requests; None where it is not set or not a number.

    It is ignored under torchrun, which sets it to 1 for several tasks where it was not set.
    """
    first = environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a number for each level of nesting
    return None if launcher == "torchrun" else _optional_number({"first": first}, "first", least=1)


def _from_torchrun(environ: Mapping[str, str]) -> ProcessInfo:
    rank, world_size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE", least=1)
    local_world_size = _number(environ, "LOCAL_WORLD_SIZE", least=1)
    has_nodes = "GROUP_RANK" in environ and "GROUP_WORLD_SIZE" in environ
    run_id = environ.get("TORCHELASTIC_RUN_ID", "none")
    return ProcessInfo(
        rank=rank,
        local_rank=_number(environ, "LOCAL_RANK"),
        node_rank=_number(environ, "GROUP_RANK") if has_nodes else rank // local_world_size,
        world_size=world_size,
        local_world_size=local_world_size,
        num_nodes=_number(environ, "GROUP_WORLD_SIZE", least=1) if has_nodes else -(-world_size // local_world_size),
        master_addr=_text(environ, "MASTER_ADDR"),
        master_port=_port(environ, "MASTER_PORT"),
        launcher="torchrun",
        host=environ.get("SLURMD_NODENAME"),
        job_id=_slurm_job_id(environ) or (None if run_id == "none" else run_id),
        attempt=_attempt(environ),
    )


def _from_slurm_step(environ: Mapping[str, str]) -> ProcessInfo:
    world_size = _first_number(environ, ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"), least=1)
    num_nodes = _first_number(environ, ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES"), least=1)
    rank, node_rank = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_NODEID")
    host = environ.get("SLURMD_NODENAME") or None
    chosen = "" if num_nodes == 1 else environ.get("MASTER_ADDR", "").strip()
    return ProcessInfo(
        rank=rank,
        local_rank=_number(environ, "SLURM_LOCALID"),
        node_rank=node_rank,
        world_size=world_size,
        local_world_size=_tasks_on_node(environ, node_rank, world_size, num_nodes),
        num_nodes=num_nodes,
        master_addr=chosen or (LOOPBACK if num_nodes == 1 else _rank_0_host(environ, rank, host)),
        master_port=_port(environ, "MASTER_PORT") if environ.get("MASTER_PORT") else None,
        launcher="slurm",
        host=host,
        job_id=_slurm_job_id(environ),
        attempt=_attempt(environ),
        is_addr_set=bool(chosen),
        step_id=_step_id(environ),
    )


def _from_submitit_local(environ: Mapping[str, str]) -> ProcessInfo:
    # submitit's local executor is for one node: SUBMITIT_LOCAL_JOB_NUM_NODES is 1, NODEID 0.
    world_size = _number(environ, "SUBMITIT_LOCAL_NTASKS", least=1)
    return ProcessInfo(
        rank=_number(environ, "SUBMITIT_LOCAL_GLOBALID"),
        local_rank=_number(environ, "SUBMITIT_LOCAL_LOCALID"),
        node_rank=0,
        world_size=world_size,
        local_world_size=world_size,
        num_nodes=1,
        master_addr=LOOPBACK,
        master_port=_port(environ, "MASTER_PORT") if environ.get("MASTER_PORT") else None,
        launcher="submitit-local",
        job_id=_text(environ, "SUBMITIT_LOCAL_JOB_ID"),
    )


def _is_srun_task(environ: Mapping[str, str]) -> bool:
    """Return whether srun started this process; the body of a batch script has rank 0 too, but no step of srun."""
    step = _step_id(environ)
    return "SLURM_PROCID" in environ and step is not None and step <= LAST_SRUN_STEP


def _step_id(environ: Mapping[str, str]) -> int | None:
    steps = (_optional_number(environ, name) for name in ("SLURM_STEP_ID", "SLURM_STEPID"))
    return next((step for step in steps if step is not None), None)


def _is_torchrun_worker(environ: Mapping[str, str]) -> bool:
    """Return whether torchrun itself started this process, whatever launcher started torchrun."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    return "TORCHELASTIC_RUN_ID" in environ and all(environ.get(name, "") not in NOT_DISTRIBUTED for name in ranks)


def _slurm_job_id(environ: Mapping[str, str]) -> str | None:
    """Return the job id for scontrol; `ARRAY_TASK` for the task of an array, so that a requeue affects it alone."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID", ""), _optional_number(environ, "SLURM_ARRAY_TASK_ID")
    if array and task is not None:
        return f"{array}_{task}"
    return environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID") or None


def _attempt(environ: Mapping[str, str]) -> int:
    return 1 + (_optional_number(environ, "SLURM_RESTART_COUNT") or 0)


def _tasks_on_node(environ: Mapping[str, str], node_rank: int, world_size: int, num_nodes: int) -> int:
    """Return the tasks of this step on node `node_rank`: `2(x3),1` is 2, 2, 2, 1. Without a list, an even split."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        parts = [_TASKS_PER_NODE.fullmatch(part) for part in environ.get(name, "").split(",")]
        tasks_per_node = [int(part["tasks"]) for part in parts if part for _ in range(int(part["nodes"] or 1))]
        if None not in parts and node_rank < len(tasks_per_node):
            return tasks_per_node[node_rank]
    return -(-world_size // num_nodes)


def _rank_0_host(environ: Mapping[str, str], rank: int, host: str | None) -> str:
    """Return the host of rank 0, for messages only, so that a node list in an unknown form is ignored."""
    if rank == 0 and host:  # with --distribution=arbitrary the list may begin with another host
        return host
    for name in NODE_LISTS:
        with contextlib.suppress(ClusterError):
            return first_host(environ.get(name, ""))
    return "an unknown host"


def _variables(launcher: Launcher, name: str) -> tuple[str, str]:
    """Return the variables in which a launcher sets a kind of rank and its size."""
    return {
        ("torchrun", "rank"): ("RANK", "WORLD_SIZE"),
        ("torchrun", "local rank"): ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("torchrun", "node rank"): ("GROUP_RANK", "GROUP_WORLD_SIZE"),
        ("slurm", "rank"): ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        ("slurm", "local rank"): ("SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
        ("slurm", "node rank"): ("SLURM_NODEID", "SLURM_STEP_NUM_NODES"),
        ("submitit-local", "rank"): ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS"),
        ("submitit-local", "local rank"): ("SUBMITIT_LOCAL_LOCALID", "SUBMITIT_LOCAL_NTASKS"),
    }.get((launcher, name), (name, f"the {launcher} launcher"))


def _text(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        _refuse(name, None, "a value, as the launcher sets it")
    return value


def _number(environ: Mapping[str, str], name: str, least: int = 0) -> int:
    value = _optional_number(environ, name, least)
    if value is None:
        _refuse(name, environ.get(name), f"a whole number from {least}")
    return value


def _first_number(environ: Mapping[str, str], names: Sequence[str], least: int = 0) -> int:
    """Return the first of the variables `names` that is a number; an error names the first one."""
    numbers = (_optional_number(environ, name, least) for name in names)
    found = next((number for number in numbers if number is not None), None)
    if found is not None:
        return found
    return _number(environ, next((name for name in names if name in environ), names[0]), least)


def _optional_number(environ: Mapping[str, str], name: str, least: int = 0) -> int | None:
    """Return the variable `name` as a number from `least`; None where it is not set or has another value."""
    value = environ.get(name, "").strip()
    return int(value) if value.isascii() and value.isdigit() and int(value) >= least else None


def _port(environ: Mapping[str, str], name: str) -> int:
    port = _number(environ, name, least=1)
    if port > 65535:
        _refuse(name, environ[name], "a port from 1 to 65535")
    return port


def _refuse(name: str, seen: str | None, allowed: str) -> NoReturn:
    raise ClusterError(
        f"environment variable {name} is {'not set' if seen is None else repr(seen)}; allowed is {allowed}",
        hint="start the task with srun or torchrun, which set all of its variables",
    )
