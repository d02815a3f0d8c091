"""Every field of a site profile, and the rules between them. docs/sites.md explains them with examples.

A profile has defaults for the `cluster` section of specs and a table of GPU types. Which profile applies is decided in
`site_files`, how its values enter a spec in `site_values`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, field
from msgspec.structs import replace

from hpc_yolo.core.units import parse_limit_s
from hpc_yolo.spec.cpu_masks import parse_cores
from hpc_yolo.spec.fields import field_types
from hpc_yolo.spec.notify_rules import is_host
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.spec.section import Section
from hpc_yolo.spec.validate import cluster_findings

PATH_NAME = re.compile(r"[a-z][a-z0-9_]*")
CLUSTER_FIELDS = frozenset(field_types(ClusterSpec))
NOT_IN_A_ROW = ("gpu", "executor")
TIME_FORMS = "minutes, hh:mm:ss or d-hh:mm:ss"


class TimeBand(ClusterSpec, frozen=True, kw_only=True):
    """Values for jobs up to a time limit: any field of cluster, such as qos or partition."""

    up_to: Annotated[str, Meta(description="Longest time limit for which these values are used.")]


class GpuRow(ClusterSpec, frozen=True, kw_only=True):
    """One type of GPU: values for any field of cluster, and what follows from the type."""

    account_suffix: Annotated[str, Meta(description="Text that is added to the account, such as @a100.")] = ""
    max_time: Annotated[str | None, Meta(description="Longest time limit of a job.")] = None
    by_time: Annotated[
        list[TimeBand],
        Meta(description="Values by the time limit, shortest first; the last up_to is the longest time limit."),
    ] = field(default_factory=list)
    gpu_cpus: Annotated[
        list[str],
        Meta(description="CPU cores nearest to each GPU of a node, in the order of the GPUs, such as 49-55."),
    ] = field(default_factory=list)


class Profile(Section, frozen=True, kw_only=True):
    """What a group writes down once about its cluster."""

    description: Annotated[str, Meta(description="The cluster in one line.")] = ""
    source: Annotated[str, Meta(description="Address of the guide that has these facts.")] = ""
    date: Annotated[str, Meta(description="Date of the facts, YYYY-MM-DD.")] = ""
    base: Annotated[
        str | None,
        Meta(description="Profile that this one adds to; the same name means the one that it would replace."),
    ] = None
    hosts: Annotated[list[str], Meta(description="Patterns of host names where the profile is used, such as uan*.")] = (
        field(default_factory=list)
    )
    cluster_names: Annotated[
        list[str], Meta(description="Values of ClusterName in slurm.conf where the profile is used.")
    ] = field(default_factory=list)
    paths: Annotated[
        dict[str, str],
        Meta(
            description="Directories by name, such as scratch; a spec writes ${site.scratch}. local is one on the "
            "nodes' own disks, which data.stage: auto takes."
        ),
    ] = field(default_factory=dict)
    network: Annotated[
        str | None, Meta(description="Network interface between nodes (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME).")
    ] = None
    proxy: Annotated[
        str | None, Meta(description="Proxy of the compute nodes (http_proxy, https_proxy; no_proxy for this machine).")
    ] = None
    smtp: Annotated[
        str | None, Meta(description="Host that takes mail from compute nodes, HOST or HOST:PORT (notify.smtp).")
    ] = None
    cluster: Annotated[ClusterSpec, Meta(description="Defaults for any field of cluster.")] = field(
        default_factory=ClusterSpec
    )
    gpus: Annotated[dict[str, GpuRow], Meta(description="Types of GPU by the name that cluster.gpu gives.")] = field(
        default_factory=dict
    )


def profile_findings(profile: Profile) -> Iterator[Finding]:
    """Yield the problems of a profile whose single values are valid."""
    if profile.date and not _is_date(profile.date):
        yield Finding("date", f"{profile.date!r} is not a date", "such as 2026-01-31")
    for name in profile.paths:
        if not PATH_NAME.fullmatch(name):
            yield Finding(f"paths.{name}", "not a name of a path", "small letters, digits and _")
    if profile.proxy is not None and "://" not in profile.proxy:
        yield Finding("proxy", f"{profile.proxy!r} is not an address", "such as http://proxy.example.org:3128")
    if profile.smtp is not None and not is_host(profile.smtp):
        yield Finding("smtp", f"{profile.smtp!r} is not a host", "HOST or HOST:PORT")
    yield from _cluster_part(profile.cluster, "cluster")
    if profile.cluster.gpu is not None and profile.cluster.gpu not in profile.gpus:
        yield Finding("cluster.gpu", f"there is no row {profile.cluster.gpu!r}", ", ".join(profile.gpus) or "null")
    for name, row in profile.gpus.items():
        yield from _row_findings(row, f"gpus.{name}")


def _row_findings(row: GpuRow, where: str) -> Iterator[Finding]:
    yield from _cluster_part(row, where)
    yield from _not_in_a_row(row, where)
    for cores in row.gpu_cpus:
        try:
            parse_cores(cores)
        except ValueError as error:
            yield Finding(f"{where}.gpu_cpus", str(error), "a list item for each GPU, such as 0-7 or 0-3,8-11")
    longest_s = 0
    for index, band in enumerate(row.by_time):
        here = f"{where}.by_time[{index}]"
        yield from _cluster_part(band, here)
        yield from _not_in_a_row(band, here)
        try:
            up_to_s = parse_limit_s(band.up_to)
        except ValueError as error:
            yield Finding(f"{here}.up_to", str(error), TIME_FORMS)
            continue
        if up_to_s is not None and up_to_s <= longest_s:
            yield Finding(f"{here}.up_to", f"{band.up_to} is not over the one before it", "the shortest time first")
        longest_s = up_to_s or longest_s
    if row.max_time is not None:
        try:
            parse_limit_s(row.max_time)
        except ValueError as error:
            yield Finding(f"{where}.max_time", str(error), TIME_FORMS)


def _not_in_a_row(row: ClusterSpec, where: str) -> Iterator[Finding]:
    for name in NOT_IN_A_ROW:
        if getattr(row, name) != getattr(ClusterSpec(), name):
            yield Finding(f"{where}.{name}", "cannot depend on the type of GPU", "leave it out")


def _cluster_part(cluster: ClusterSpec, where: str) -> Iterator[Finding]:
    """Yield the problems of fields of cluster that stand under `where` in the profile."""
    for finding in cluster_findings(cluster):
        yield replace(finding, field=where + finding.field.removeprefix("cluster"), needs=())


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True
