"""Settings of a site that determine how jobs end: Slurm's configuration, partitions and qualities of service.

`site_settings`, `partitions` and `qos_limits` query Slurm, with a time limit each; the `parse_*` functions are pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.cluster.slurm_output import fields_of, parse_slurm_time_s
from hpc_yolo.core.errors import ClusterError

Default = TypeVar("Default", int, None)

QUERY_TIMEOUT_S = 2.0
DEFAULT_ARRAY_SIZE = 1001
DEFAULT_CRED_EXPIRE_S = 120
DEFAULT_MAX_REQUEUES = 5
CHAIN_WAIT_S = 10  # measured time until a successor starts on free nodes
NO_EXPEDITE = "needs Slurm 25.11 or newer with enable_expedited_requeue in SlurmctldParameters: not supported here"
LEAST_KILL_WAIT_S = 5  # Slurm waits at least this long between SIGTERM and SIGKILL, even if KillWait is less


@dataclass(frozen=True)
class SiteSettings:
    """Settings in `scontrol show config`.

    Attributes:
        kill_wait_s: from SIGTERM to SIGKILL.
        requeue_wait_s: longest wait of a requeued job before it may start again.
        requeue_wait_name: setting that determines this wait.
        expedites: whether jobs may be requeued without that wait (since 25.11).
        preempt_type: none, partition_prio or qos.
        preempt_mode: in capitals, such as REQUEUE, CANCEL, OFF or GANG,SUSPEND.
        sends_user_signal: a preempted job gets the signal of --signal instead of SIGTERM.
        slurmd_timeout_s: time after which a node without response is set down; 0: never.
        min_job_age_s: time for which squeue lists a job that has ended.
        submit_plugins: plugins of the site that may change a job at submission; may be empty.
        max_requeues: failed launches after which Slurm holds a job.
        enforces_limits: sbatch refuses a job over a limit of its partitions; otherwise such a job waits.
        max_array_size: tasks of an array of jobs, at most.
    """

    version: str
    kill_wait_s: int
    requeue_wait_s: int
    requeue_wait_name: str
    expedites: bool
    preempt_type: str
    preempt_mode: str
    sends_user_signal: bool
    kills_on_bad_exit: bool
    slurmd_timeout_s: int
    min_job_age_s: int
    has_accounting: bool
    submit_plugins: str
    max_requeues: int
    enforces_limits: bool = False
    max_array_size: int = DEFAULT_ARRAY_SIZE


@dataclass(frozen=True)
class RequeueChoice:
    """How an interrupted run continues, after how many seconds its job may start again (None: unknown), and why."""

    mode: str
    wait_s: int | None
    why: str


@dataclass(frozen=True)
class Partition:
    """A partition of Slurm.

    Attributes:
        num_nodes, max_time_s, default_time_s: None where unlimited or unknown.
        preempt_mode: as in `SiteSettings`.
    """

    name: str
    state: str
    is_default: bool
    num_nodes: int | None
    max_time_s: int | None
    default_time_s: int | None
    grace_s: int
    preempt_mode: str


@dataclass(frozen=True)
class QosLimits:
    """Preemption settings of a quality of service. `preempt_mode` CLUSTER means that of the site."""

    grace_s: int
    preempt_mode: str


def site_settings(*, run: Run = run_command) -> SiteSettings:
    """Return the settings of the site.

    Raises:
        SchedulerUnavailable: no answer within `QUERY_TIMEOUT_S`.
        ClusterError: the output is not a configuration.
    """
    return parse_site_settings(scheduler.show("config", QUERY_TIMEOUT_S, run=run))


def partitions(*, run: Run = run_command) -> dict[str, Partition]:
    """Return all partitions by name, hidden ones included.

    Raises:
        SchedulerUnavailable: no answer within `QUERY_TIMEOUT_S`.
    """
    return parse_partitions(scheduler.show("partition", QUERY_TIMEOUT_S, run=run))


def qos_limits(*, run: Run = run_command) -> dict[str, QosLimits]:
    """Return all qualities of service by name.

    Raises:
        ClusterError: no accounting, or no answer within `QUERY_TIMEOUT_S`.
    """
    return parse_qos_limits(scheduler.show_qos(QUERY_TIMEOUT_S, run=run))


def choose_requeue(wanted: str, settings: SiteSettings | None) -> RequeueChoice:
    """Return how an interrupted run continues here, by `cluster.requeue` and the site's settings (None: unknown)."""
    if settings is None:
        return RequeueChoice("requeue" if wanted == "auto" else wanted, None, "the settings of Slurm are unknown")
    waits = f"a requeued job waits up to {settings.requeue_wait_s} s ({settings.requeue_wait_name})"
    if wanted == "off":
        return RequeueChoice("off", None, "set by the spec")
    if wanted == "expedite" or (wanted == "auto" and settings.expedites):
        return RequeueChoice("expedite", 0, "a requeued job starts again without waiting (enable_expedited_requeue)")
    if wanted == "chain":
        return RequeueChoice("chain", CHAIN_WAIT_S, "a successor waits in the queue")
    if wanted == "auto" and settings.requeue_wait_s > CHAIN_WAIT_S:
        return RequeueChoice("chain", CHAIN_WAIT_S, f"a successor waits in the queue, and starts sooner: {waits}")
    return RequeueChoice("requeue", settings.requeue_wait_s, waits)


def chosen_partition(wanted: str | None, found: Mapping[str, Partition]) -> Partition | None:
    """Return the partition `wanted`, or the default one where it is None; None where the site has no default.

    Raises:
        ClusterError: there is no such partition.
    """
    if wanted is None:
        return next((partition for partition in found.values() if partition.is_default), None)
    if wanted not in found:
        raise ClusterError(
            f"cluster.partition: there is no partition {wanted!r} here; there are {', '.join(sorted(found)) or 'none'}",
            hint="choose one with --partition NAME",
        )
    return found[wanted]


def chosen_partitions(wanted: Sequence[str], found: Mapping[str, Partition]) -> list[Partition]:
    """Return the partitions `wanted`, or the default one where it is empty; [] where the site has no default.

    Raises:
        ClusterError: there is no such partition.
    """
    names: Sequence[str | None] = wanted or [None]
    chosen = [chosen_partition(name, found) for name in dict.fromkeys(names)]
    return [partition for partition in chosen if partition is not None]


def parse_site_settings(text: str) -> SiteSettings:
    """Parse `scontrol show config`: a `Name = value` per line, times as `30 sec`, unset values as `(null)`.

    Raises:
        ClusterError: it has no KillWait, so it is not a configuration.
    """
    pairs = (line.partition("=") for line in text.splitlines())
    config = {name.strip(): value.strip() for name, equals, value in pairs if equals}
    if "KillWait" not in config:
        raise ClusterError(f"scontrol shows no configuration: {text.strip()[:200] or 'nothing'}")
    # The parameter that requests the user's signal at preemption differs between versions of Slurm.
    parameters = f"{config.get('PreemptParameters', '')},{config.get('SlurmctldParameters', '')}"
    requeue_delay_s = _whole_after("requeue_delay=", config.get("SchedulerParameters", ""), None)  # since 25.11
    cred_expire_s = _whole_after("cred_expire=", config.get("AuthInfo", ""), DEFAULT_CRED_EXPIRE_S)
    preempt_type = config.get("PreemptType", "").removeprefix("preempt/")
    return SiteSettings(
        version=config.get("SLURM_VERSION", ""),
        kill_wait_s=_whole(config["KillWait"], 30),
        requeue_wait_s=cred_expire_s if requeue_delay_s is None else requeue_delay_s,
        requeue_wait_name="cred_expire" if requeue_delay_s is None else "requeue_delay",
        expedites="enable_expedited_requeue" in config.get("SlurmctldParameters", "").lower(),
        preempt_type="none" if preempt_type in ("", "(null)") else preempt_type,
        preempt_mode=config.get("PreemptMode", "OFF").upper(),
        sends_user_signal="send_user_signal" in parameters.lower(),
        kills_on_bad_exit=_whole(config.get("KillOnBadExit", ""), 0) != 0,
        slurmd_timeout_s=_whole(config.get("SlurmdTimeout", ""), 300),
        min_job_age_s=_whole(config.get("MinJobAge", ""), 300),
        has_accounting=config.get("AccountingStorageType", "").endswith("/slurmdbd"),
        submit_plugins="" if (plugins := config.get("JobSubmitPlugins", "")) == "(null)" else plugins,
        max_requeues=_max_requeues(config),
        enforces_limits=config.get("EnforcePartLimits", "NO").upper() != "NO",
        max_array_size=_whole(config.get("MaxArraySize", ""), DEFAULT_ARRAY_SIZE) or DEFAULT_ARRAY_SIZE,
    )


def parse_partitions(text: str) -> dict[str, Partition]:
    """Parse `scontrol --oneliner show partition`: one partition per line, `Name=value` separated by spaces."""
    lines = (fields_of(line) for line in text.splitlines())
    return {fields["PartitionName"]: _partition(fields) for fields in lines if "PartitionName" in fields}


def parse_qos_limits(text: str) -> dict[str, QosLimits]:
    """Parse sacctmgr's lines: name | grace time | preempt mode."""
    rows = [[*line.split("|"), "", ""][:3] for line in text.splitlines() if "|" in line]
    return {name: QosLimits(parse_slurm_time_s(grace) or 0, mode.upper() or "CLUSTER") for name, grace, mode in rows}


def _partition(fields: Mapping[str, str]) -> Partition:
    """Return a partition; a missing or unreadable value becomes the least restrictive one."""
    return Partition(
        name=fields["PartitionName"],
        state=fields.get("State", "UP"),
        is_default=fields.get("Default") == "YES",
        num_nodes=_whole(fields.get("TotalNodes", ""), None),
        max_time_s=parse_slurm_time_s(fields.get("MaxTime", "")),
        default_time_s=parse_slurm_time_s(fields.get("DefaultTime", "")),
        grace_s=_whole(fields.get("GraceTime", ""), 0),
        preempt_mode=fields.get("PreemptMode", "OFF").upper(),
    )


def _whole(text: str, otherwise: Default) -> int | Default:
    """Return the number at the beginning of `text`, such as 30 of "30 sec"."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else otherwise


def _whole_after(word: str, text: str, otherwise: Default) -> int | Default:
    _, found, rest = text.partition(word)
    return _whole(rest, otherwise) if found else otherwise


def _max_requeues(config: Mapping[str, str]) -> int:
    configured = _whole(config.get("MaxBatchRequeue", ""), DEFAULT_MAX_REQUEUES)
    return _whole_after("max_batch_requeue=", config.get("SchedulerParameters", ""), configured)
