"""Which of all tasks this process is, where rank 0 is, and the ports that rank 0 may listen on.

`ProcessInfo.from_env` is a pure function of a mapping. It believes the innermost launcher: torchrun, then submitit's
local executor, then the Slurm step. Inside either of the last two, RANK and its like count only where torchrun itself
has set them; elsewhere they may have been set by hand. Without any launcher (also in a batch script's body, or in a
shell that salloc opened) the process is alone. `current_environment` is the one place that reads `os.environ`.

A variable of Slurm that is there but not a number is passed over where another says the same or nothing depends on it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from hpc_yolo.cluster.hostlist import first_host
from hpc_yolo.core.errors import ClusterError

Launcher = Literal["torchrun", "slurm", "submitit-local", "single"]

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 10000, 32767  # below Linux's ephemeral ports, which any connection may take
NUM_CANDIDATE_PORTS = 64
NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
# Steps above this number are not srun's: batch script, external processes, salloc's interactive shell. Since Slurm
# 26.05 their numbers are printed as negative ones.
LAST_SRUN_STEP = 0xFFFF_FFF0
NOT_DISTRIBUTED = ("", "-1")  # a rank that scripts export to say that there is none
_JOB_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMI2_", "PMIX_", "SUBMITIT_LOCAL_")
_REQUEST_PREFIXES = ("SBATCH_", "SALLOC_")
_TORCHRUN_PREFIXES = (
    *("TORCHELASTIC_", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
)
_TASKS_PER_NODE = re.compile(r"(?P<tasks>\d+)(?:\(x(?P<nodes>\d+)\))?")


@dataclass(frozen=True)
class ProcessInfo:
    """This process among all tasks of a job. `node rank` counts nodes, `local rank` tasks on this node, from 0.

    Attributes:
        master_addr: name or address of rank 0's host; the loopback where all ranks are on one node.
        is_addr_set: MASTER_ADDR says it, not the launcher.
        master_port: where rank 0 listens if somebody fixed it; None leaves it to rank 0 (see `candidate_ports`).
        host: this node's name as the launcher knows it; None where the launcher does not say.
        job_id: as Slurm's commands take it, `123` or `123_4` in an array; for submitit-local its controller's
            process id; for torchrun outside Slurm its run id, if it has one.
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
                    hint="are variables left over from another job? start the task with srun or torchrun",
                )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> ProcessInfo:
        """Read the launcher's variables.

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
        """Return this process as the only one; its job and attempt are read, everything about ranks is not.

        For what runs beside the tasks of a job, such as the last line of its batch script.
        """
        return cls(0, 0, 0, 1, 1, 1, LOOPBACK, None, "single", job_id=_slurm_job_id(environ), attempt=_attempt(environ))


def current_environment() -> Mapping[str, str]:
    """A copy of this process's environment."""
    return dict(os.environ)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what a surrounding job set for its own tasks, so that a new job does not inherit it.

    Nor what torchrun set for its workers. SLURM_CONF stays: it says where Slurm is. SBATCH_* and SALLOC_* go inside a
    job only; on a login node they are a person's own defaults, such as the account.
    """
    leaking = _JOB_PREFIXES + (_REQUEST_PREFIXES if "SLURM_JOB_ID" in environ else ())
    leaking += _TORCHRUN_PREFIXES if "TORCHELASTIC_RUN_ID" in environ else ()
    kept = {name: value for name, value in environ.items() if not name.startswith(leaking)}
    kept.pop("SUBMITIT_EXECUTOR", None)
    return kept | {name: environ[name] for name in ("SLURM_CONF",) if name in environ}


def chosen_threads(environ: Mapping[str, str], launcher: Launcher) -> int | None:
    """Return the number of threads that OMP_NUM_THREADS asks for; None where it is not set or unreadable.

    torchrun sets it to 1 for several tasks where nobody did, so there it says nothing.
    """
    first = environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a number for each level of nesting
    return None if launcher == "torchrun" else _optional_number({"first": first}, "first", least=1)


def candidate_ports(job_id: str, attempt: int) -> Iterator[int]:
    """Distinct ports in 10000-32767, the same at every call, spread by a hash so that jobs on one host rarely meet."""
    seen: set[int] = set()
    for number in itertools.count():
        digest = hashlib.blake2b(f"{job_id}/{attempt}/{number}".encode(), digest_size=8).digest()
        port = FIRST_PORT + int.from_bytes(digest, "big") % (LAST_PORT - FIRST_PORT + 1)
        if port not in seen:
            seen.add(port)
            yield port
        if len(seen) == NUM_CANDIDATE_PORTS:
            return


def bind_first_free(ports: Iterable[int], host: str = "") -> socket.socket:
    """A socket that listens on the first of `ports` that is free here; `getsockname()[1]` says which.

    Args:
        host: the address to listen on; all of this machine's when empty, over IPv6 too where it has it.

    Raises:
        ClusterError: none is free, or this host may not listen on them; the message names them.
    """
    tried: list[int] = []
    for port in ports:
        try:
            return _listen(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ClusterError(f"cannot listen on {host or 'any address'}, port {port}: {error.strerror}") from None
            tried.append(port)
    shown = f"{', '.join(map(str, tried[:8]))}{' …' if len(tried) > 8 else ''}"
    raise ClusterError(
        f"rank 0 finds no free port on {socket.gethostname()}: {shown or 'none was allowed'} taken",
        hint="unset MASTER_PORT to let rank 0 search" if len(tried) == 1 else "what listens there? see ss -ltnp",
    )


def _listen(host: str, port: int) -> socket.socket:
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host, port))


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
    # submitit's local executor is for one node and says so: SUBMITIT_LOCAL_JOB_NUM_NODES is 1, NODEID 0.
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
    """Return whether srun started this process; a batch script's body has a rank of 0 too, but no step of srun's."""
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
    """The job as scontrol takes it: an array's task is `ARRAY_TASK`, so that a requeue does not take them all."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID", ""), _optional_number(environ, "SLURM_ARRAY_TASK_ID")
    if array and task is not None:
        return f"{array}_{task}"
    return environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID") or None


def _attempt(environ: Mapping[str, str]) -> int:
    return 1 + (_optional_number(environ, "SLURM_RESTART_COUNT") or 0)


def _tasks_on_node(environ: Mapping[str, str], node_rank: int, world_size: int, num_nodes: int) -> int:
    """The tasks of this step on node `node_rank`: `2(x3),1` is 2, 2, 2, 1. Unless they are listed, an even split."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        parts = [_TASKS_PER_NODE.fullmatch(part) for part in environ.get(name, "").split(",")]
        tasks_per_node = [int(part["tasks"]) for part in parts if part for _ in range(int(part["nodes"] or 1))]
        if None not in parts and node_rank < len(tasks_per_node):
            return tasks_per_node[node_rank]
    return -(-world_size // num_nodes)


def _rank_0_host(environ: Mapping[str, str], rank: int, host: str | None) -> str:
    """The host of rank 0 for messages; nothing else depends on it, so a list in an unknown form is passed over."""
    if rank == 0 and host:  # it knows better: with --distribution=arbitrary the list may begin with another host
        return host
    for name in NODE_LISTS:
        with contextlib.suppress(ClusterError):
            return first_host(environ.get(name, ""))
    return "a host that is not named"


def _variables(launcher: Launcher, name: str) -> tuple[str, str]:
    """The variables that a launcher uses for a kind of rank and for its size."""
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
    """The first of the variables `names` that is a number; the first one is named where none is."""
    numbers = (_optional_number(environ, name, least) for name in names)
    found = next((number for number in numbers if number is not None), None)
    return (
        _number(environ, next((name for name in names if name in environ), names[0]), least) if found is None else found
    )


def _optional_number(environ: Mapping[str, str], name: str, least: int = 0) -> int | None:
    """The variable `name` as a number from `least`; None where it is not set or says something else."""
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
