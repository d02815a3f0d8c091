"""Draft of a site profile, from what Slurm answers on this machine. What it does not answer becomes a comment."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hpc_yolo.cluster import scheduler, site
from hpc_yolo.cluster.node_types import NodeType, parse_node_types
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.cluster.this_site import cluster_name
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.core.units import format_time

Answer = TypeVar("Answer")
LEAST_IN_GB_MB = 16 * 1024
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass
class SiteFacts:
    """What Slurm answers about a site; `unanswered` has a sentence for each query without an answer."""

    cluster: str | None = None
    node_types: list[NodeType] = field(default_factory=list)
    qos: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


def ask_site(user: str, environ: dict[str, str], *, run: Run = run_command) -> SiteFacts:
    """Query Slurm for a draft; each query has a time limit."""
    facts = SiteFacts(cluster=cluster_name(environ, run))
    if facts.cluster is None:
        facts.unanswered.append("ClusterName: neither in slurm.conf nor answered by scontrol")

    def answer(what: str, query: Callable[[], Answer], otherwise: Answer) -> Answer:
        try:
            return query()
        except ClusterError as error:
            facts.unanswered.append(f"{what}: {error.message}")
            return otherwise

    timeout_s = site.QUERY_TIMEOUT_S
    facts.node_types = answer("nodes", lambda: parse_node_types(scheduler.show_node_types(timeout_s, run=run)), [])
    facts.qos = answer("qos", lambda: list(site.qos_limits(run=run)), [])
    facts.accounts = answer("accounts", lambda: scheduler.show_accounts(user, timeout_s, run=run), [])
    return facts


def draft(name: str, host: str, facts: SiteFacts) -> str:
    """Return the text of a profile `name` of the site of `host`, with comments on what to complete."""
    lines = [
        f"# Draft by hpc-yolo site new {name}, from the answers of Slurm on {host}.",
        f"# Check every value with the guide of the site; then: hpc-yolo site check {name}",
        *(f"# not answered: {' '.join(text.split())}" for text in facts.unanswered),
        f"description: {name}",
        "source: ''                            # address of the site's guide",
        f"date: {time.strftime('%Y-%m-%d')}",
    ]
    if facts.cluster is not None:
        lines.append(f"cluster_names: [{_quoted(facts.cluster)}]")
    lines += [
        f"# hosts: [{_quoted(host)}]",
        "# paths: {scratch: /scratch/$USER, local: $TMPDIR}   # a spec writes ${site.scratch}",
        "# network: ib0                       # interface between nodes: NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME",
        "# proxy: http://proxy.example.org:3128",
        "",
        *_cluster_lines(facts),
        "",
        *_gpu_lines(facts.node_types),
    ]
    return "\n".join([*lines, ""])


def _cluster_lines(facts: SiteFacts) -> list[str]:
    accounts = [f"  # account: {_quoted(account)}" for account in facts.accounts] or ["  # account: NAME"]
    qos = [f"  # qos: {', '.join(facts.qos)}"] if facts.qos else []
    return [
        "cluster:                              # defaults for any field of cluster",
        "  requeue: auto",
        *accounts,
        *qos,
        "  # sbatch: {mail-type: [FAIL, TIME_LIMIT], mail-user: me@example.org}",
    ]


def _gpu_lines(node_types: Sequence[NodeType]) -> list[str]:
    with_gpus = [nodes for nodes in node_types if nodes.num_gpus]
    if not with_gpus:
        return ["# gpus:                              # no GPUs were found; a row looks like this", *_example_row()]
    lines, names = ["gpus:"], set[str]()
    for nodes in with_gpus:
        base = nodes.gpu_type or "gpu"
        name = next(free for free in (base, f"{base}-{nodes.partition}", *_numbered(base)) if free not in names)
        names.add(name)
        lines += _row_lines(name, nodes)
    return lines


def _row_lines(name: str, nodes: NodeType) -> list[str]:
    cpus = max(nodes.num_cpus // nodes.num_gpus, 1)
    mem_mb = nodes.mem_mb // nodes.num_gpus
    mem = f"{mem_mb // 1024}G" if mem_mb >= LEAST_IN_GB_MB else f"{mem_mb}M"
    features = f"; constraint: one of {nodes.features}" if nodes.features else ""
    return [
        f"  {_quoted(name)}:  # {nodes.num_gpus} GPUs, {nodes.num_cpus} CPUs, {nodes.mem_mb} MB a node{features}",
        f"    partition: {_quoted(nodes.partition)}",
        *([f"    gpu_type: {_quoted(nodes.gpu_type)}"] if nodes.gpu_type else []),
        f"    cpus_per_task: {cpus}",
        f"    {'' if mem_mb else '# '}mem_per_gpu: {mem}",
        *([f'    max_time: "{format_time(nodes.max_time_s)}"'] if nodes.max_time_s else []),
        "    # qos, constraint, account_suffix, modules, by_time, gpu_cpus: docs/sites.md",
    ]


def _example_row() -> list[str]:
    return ["#   a100: {partition: gpu, gpu_type: a100, cpus_per_task: 8, mem_per_gpu: 60G, max_time: 1-00:00:00}"]


def _numbered(base: str) -> list[str]:
    return [f"{base}-{number}" for number in range(2, 1000)]


def _quoted(text: str) -> str:
    """Return `text` as YAML text, without quotes where it is a plain name."""
    if _PLAIN.fullmatch(text) and text.lower() != "null":
        return text
    return "'" + text.replace("'", "''") + "'"
