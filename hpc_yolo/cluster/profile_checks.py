"""Compare a site profile with the Slurm of this machine: partitions, qualities of service and accounts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hpc_yolo.cluster import scheduler, site
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.profile import Profile
from hpc_yolo.spec.schema import ClusterSpec

MAX_NAMES = 12  # in a message


@dataclass(frozen=True)
class SlurmNames:
    """What Slurm knows by name; None where it did not answer.

    Attributes:
        unanswered: a sentence for each query without an answer.
    """

    partitions: Collection[str] | None
    qos: Collection[str] | None
    accounts: Collection[str] | None
    unanswered: Sequence[str] = ()


def ask_slurm(user: str, *, run: Run = run_command) -> SlurmNames:
    """Return the partitions, the qualities of service, and the accounts of `user`; each query has a time limit."""
    unanswered: dict[str, list[str]] = {}  # by message: a controller that is down answers nothing
    found: dict[str, Collection[str] | None] = {}
    queries: dict[str, Callable[[], Iterable[str]]] = {
        "partitions": lambda: site.partitions(run=run),
        "qos": lambda: site.qos_limits(run=run),
        "accounts": lambda: scheduler.show_accounts(user, site.QUERY_TIMEOUT_S, run=run),
    }
    for name, query in queries.items():
        try:
            found[name] = list(query()) or None
        except ClusterError as error:
            found[name] = None
            unanswered.setdefault(error.message.partition(": ")[2] or error.message, []).append(name)
    sentences = [f"{', '.join(names)}: {message}" for message, names in unanswered.items()]
    return SlurmNames(found["partitions"], found["qos"], found["accounts"], sentences)


def slurm_findings(profile: Profile, names: SlurmNames) -> Iterator[Finding]:
    """Yield the names in `profile` that Slurm does not know."""
    account = profile.cluster.account
    yield from _unknown(profile.cluster, "cluster", names)
    yield from _missing([account] if account and not profile.gpus else [], names.accounts, "cluster.account", "account")
    for row_name, row in profile.gpus.items():
        where = f"gpus.{row_name}"
        yield from _unknown(row, where, names)
        charged = row.account or account
        if charged is not None:
            full = charged if charged.endswith(row.account_suffix) else charged + row.account_suffix
            yield from _missing([full], names.accounts, f"{where}.account_suffix", "account of yours")
        for index, band in enumerate(row.by_time):
            yield from _unknown(band, f"{where}.by_time[{index}]", names)


def _unknown(cluster: ClusterSpec, where: str, names: SlurmNames) -> Iterator[Finding]:
    yield from _missing(cluster.partitions, names.partitions, f"{where}.partition", "partition")
    yield from _missing([cluster.qos] if cluster.qos else [], names.qos, f"{where}.qos", "qos")


def _missing(wanted: Sequence[str], known: Collection[str] | None, field: str, noun: str) -> Iterator[Finding]:
    for name in wanted:
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            others = ", ".join(sorted(known)[:MAX_NAMES])
            allowed = f"{near[0]} is the nearest of {others}" if near else others
            yield Finding(field, f"the Slurm of this machine has no {noun} {name!r}", allowed)
