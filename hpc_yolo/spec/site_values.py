"""The values of a site profile in a spec: merged as untyped YAML, so that each keeps its file, line and column.

From below: `cluster` of the profile, the row of `cluster.gpu`, its values for the time limit, the spec, the options of
the command line. Mappings (env, sbatch, srun) are merged key by key, anything else is replaced.
"""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path

import msgspec

from hpc_yolo.core.units import format_time, parse_limit_s
from hpc_yolo.spec.cpu_masks import mask_option
from hpc_yolo.spec.data import AUTO
from hpc_yolo.spec.problems import Location, Problem
from hpc_yolo.spec.profile import CLUSTER_FIELDS, GpuRow, Profile
from hpc_yolo.spec.site_files import SiteLookup, choose, profile_paths, read_profile
from hpc_yolo.spec.yaml_merge import at, leaves, mapped, only, overlay, text_at, with_value
from hpc_yolo.spec.yaml_tree import Mapping, Node, Scalar, Sequence

NETWORK_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
LOCAL_PATH = "local"  # among the paths of a profile: a directory of the nodes
PROXY_VARIABLES = ("http_proxy", "https_proxy")
NOT_BY_PROXY = "localhost,127.0.0.1"
# Where the spec itself has one of these, the longest time limit of a row need not be that of the job.
CHOSEN_LIMITS = (("partition",), ("qos",), ("sbatch", "reservation"))
SUFFIX_ORIGIN = "account_suffix"  # among the origins: no field of a spec
_PATH = re.compile(r"\$\{site\.([^}]*)\}")


class AppliedSite(msgspec.Struct, frozen=True):
    """The profile whose values are in a spec, why it applies, and the names of its GPU types."""

    name: str
    path: Path
    why: str
    gpus: tuple[str, ...] = ()


class SiteValues(msgspec.Struct):
    """A spec with the values of its profile. `origins`: where a value is from that has no location of its own."""

    tree: Node | None
    site: AppliedSite | None
    origins: dict[str, Location]


def with_site_values(tree: Node | None, lookup: SiteLookup, problems: list[Problem]) -> SiteValues:
    """Return the spec `tree` with the values of the profile that applies to it, if one does.

    A run that is no Slurm job gets no values. Problems of the profile and of its use are added to `problems`.
    """
    unchanged = SiteValues(tree, None, {})
    if not _may_hold_fields(tree) or not _may_hold_fields(at(tree, "cluster")):
        return unchanged  # reported with the type of the field
    if not _becomes_slurm_job(tree, lookup):
        return unchanged
    before = len(problems)
    written = at(tree, "site")
    named = written if isinstance(written, Scalar) and not written.is_null else None
    choice = choose(lookup, named, problems)
    if choice is None:
        if len(problems) == before:
            _refuse_without_profile(tree, problems)
        return unchanged
    path = profile_paths(lookup.directories)[choice.name][-1]
    read = read_profile(choice.name, lookup, problems)
    if read is None:
        return unchanged
    values = _Merger(*read, choice.name, problems).merge(tree)
    if written is None or (isinstance(written, Scalar) and written.is_null):
        values.tree = with_value(values.tree, Scalar(Location(str(path), 1, 1), choice.name, plain=False), "site")
    values.site = AppliedSite(choice.name, path, choice.why, tuple(read[1].gpus))
    return values


def refuse_site_paths(tree: Node | None, problems: list[Problem]) -> None:
    """Add a problem for each ${site.…} that is left in `tree`."""

    def refuse(value: Scalar) -> Scalar:
        if found := _PATH.search(value.text):
            message = f"{found[0]} is a path of a site profile, and no profile is used here"
            problems.append(Problem(value.location, "", message, "the path itself; site: NAME with submit or render"))
        return value

    if tree is not None:
        mapped(tree, refuse)


class _Merger:
    """The merge of one profile with one spec."""

    def __init__(self, profile: Mapping, typed: Profile, name: str, problems: list[Problem]) -> None:
        self._profile = profile
        self._typed = typed
        self._name = name
        self._problems = problems
        self._origins: dict[str, Location] = {}

    def merge(self, tree: Node | None) -> SiteValues:
        """Return the spec `tree` with the values of the profile."""
        own = at(tree, "cluster")
        own = own if isinstance(own, Mapping) else None
        below = overlay(self._environment(), only(at(self._profile, "cluster"), CLUSTER_FIELDS.__contains__))
        merged = overlay(below, own)
        row_name = text_at(merged, "gpu")
        if row_name is not None and (row := self._row(row_name, merged)) is not None:
            row_tree = at(self._profile, "gpus", row_name)
            below = overlay(below, only(row_tree, CLUSTER_FIELDS.__contains__))
            band = self._band(row, row_tree, overlay(below, own), own)
            below = overlay(below, only(band, CLUSTER_FIELDS.__contains__))
            merged = self._with_suffix(overlay(below, own), row, row_name)
            merged = self._with_cpu_masks(merged, row, row_name)
        elif row_name is None and text_at(merged, "cpu_bind") is not None:
            self._problem(merged, "cpu_bind", "auto needs the type of GPU", "cluster.gpu: a row of the site profile")
        is_wanted = own is not None and "container" in own.keys
        if not is_wanted and text_at(merged, "container", "image") is None:  # a runtime alone is no container
            merged = only(merged, lambda key: key != "container")
        if merged is not None:
            tree = with_value(tree, merged, "cluster")
        tree = self._with_stage(self._with_mail_host(tree))
        return SiteValues(None if tree is None else mapped(tree, self._with_paths), None, self._origins)

    def _with_mail_host(self, tree: Node | None) -> Node | None:
        """Return the spec `tree` with the host of the profile that takes mail, where it sends mail and names none."""
        host = at(self._profile, "smtp")
        if not isinstance(host, Scalar) or host.is_null or text_at(tree, "notify", "smtp") is not None:
            return tree
        return tree if at(tree, "notify", "mail") is None else with_value(tree, host, "notify", "smtp")

    def _with_stage(self, tree: Node | None) -> Node | None:
        """Return the spec `tree` with the profile's directory on the nodes in place of `data.stage: auto`."""
        local = at(self._profile, "paths", LOCAL_PATH)
        if not isinstance(local, Scalar) or text_at(tree, "data", "stage") != AUTO:
            return tree
        return with_value(tree, Scalar(local.location, local.text, plain=False), "data", "stage")

    def _environment(self) -> Node | None:
        """Return the variables for the network interface and the proxy."""
        tree: Node | None = None
        for key, names in (("network", NETWORK_VARIABLES), ("proxy", PROXY_VARIABLES)):
            value = at(self._profile, key)
            if isinstance(value, Scalar) and not value.is_null:
                for name in names:
                    tree = with_value(tree, Scalar(value.location, value.text, plain=False), "env", name)
                if key == "proxy":
                    tree = with_value(tree, Scalar(value.location, NOT_BY_PROXY, plain=False), "env", "no_proxy")
        return tree

    def _row(self, name: str, merged: Node | None) -> GpuRow | None:
        if name in self._typed.gpus:
            return self._typed.gpus[name]
        near = difflib.get_close_matches(name.lower(), {row.lower(): row for row in self._typed.gpus}, n=1)
        nearest = f"; {near[0]} is the nearest" if near else ""
        allowed = ", ".join(self._typed.gpus) or "null: the profile has no gpus"
        self._problem(merged, "gpu", f"there is no row {name!r} in the profile {self._name}", allowed + nearest)
        return None

    def _band(self, row: GpuRow, row_tree: Node | None, merged: Node | None, own: Mapping | None) -> Node | None:
        """Return the values for the time limit of the job; without a limit those of the shortest one."""
        bands = at(row_tree, "by_time")
        trees = bands.items if isinstance(bands, Sequence) else []
        try:
            written = text_at(merged, "time")
            limit_s = 0 if written is None else parse_limit_s(written)
        except ValueError:
            return None  # reported with the type of the field
        wanted_s = math.inf if limit_s is None else limit_s
        longest = [_seconds(text) for text in (row.max_time, row.by_time[-1].up_to if row.by_time else None) if text]
        longest_s = min(longest, default=math.inf)
        if wanted_s > longest_s and not any(at(own, *keys) for keys in CHOSEN_LIMITS):
            limit = format_time(int(longest_s))
            message = f"{written} is longer than {limit}, the longest on {text_at(merged, 'gpu')} of {self._name}"
            allowed = f"at most {limit}: a run continues in the next job; or a partition or qos of your own"
            self._problem(merged, "time", message, allowed)
        for typed, tree in zip(row.by_time, trees, strict=True):
            if wanted_s <= _seconds(typed.up_to):
                return tree
        return None

    def _with_suffix(self, merged: Node | None, row: GpuRow, name: str) -> Node | None:
        """Return `merged` with the suffix of the row at its account."""
        account = at(merged, "account")
        if not row.account_suffix or not isinstance(account, Scalar) or account.is_null:
            return merged
        if account.text.endswith(row.account_suffix):
            return merged
        for other, others in self._typed.gpus.items():
            if others.account_suffix and account.text.endswith(others.account_suffix):
                allowed = f"{account.text.removesuffix(others.account_suffix)}, to which {row.account_suffix} is added"
                self._problem(merged, "account", f"{account.text} is for {other}, and cluster.gpu is {name}", allowed)
                return merged
        self._origins[SUFFIX_ORIGIN] = _location(self._profile, "gpus", name, "account_suffix")
        suffixed = Scalar(account.location, account.text + row.account_suffix, plain=False)
        return with_value(merged, suffixed, "account")

    def _with_cpu_masks(self, merged: Node | None, row: GpuRow, name: str) -> Node | None:
        """Return `merged` with the option of srun for `cpu_bind: auto`."""
        if text_at(merged, "cpu_bind") != "auto" or at(merged, "srun", "cpu-bind") is not None:
            return merged
        if not row.gpu_cpus:
            message = f"auto needs the CPU cores of each GPU, and the row {name} of {self._name} has no gpu_cpus"
            self._problem(merged, "cpu_bind", message, "null, or cluster.srun: {cpu-bind: …}")
            return merged
        num_gpus = text_at(merged, "gpus_per_node") or "1"
        if num_gpus != str(len(row.gpu_cpus)):
            message = f"auto needs all {len(row.gpu_cpus)} GPUs of a node, and gpus_per_node is {num_gpus}"
            self._problem(merged, "cpu_bind", message, f"null, or cluster.gpus_per_node: {len(row.gpu_cpus)}")
            return merged
        location = _location(self._profile, "gpus", name, "gpu_cpus")
        return with_value(merged, Scalar(location, mask_option(row.gpu_cpus), plain=False), "srun", "cpu-bind")

    def _with_paths(self, value: Scalar) -> Scalar:
        """Return `value` with the profile's paths in place of ${site.NAME}."""
        if "${site." not in value.text:
            return value
        for name in _PATH.findall(value.text):
            if name not in self._typed.paths:
                known = ", ".join(f"${{site.{path}}}" for path in self._typed.paths) or "the path itself"
                message = f"the profile {self._name} has no path {name!r}"
                self._problems.append(Problem(value.location, "", message, known))
                return value
        text = _PATH.sub(lambda found: self._typed.paths[found[1]], value.text)
        return Scalar(value.location, text, plain=False)

    def _problem(self, cluster: Node | None, field: str, message: str, allowed: str) -> None:
        location = _location(cluster, field)
        self._problems.append(Problem(location, f"cluster.{field}", message, allowed))


def value_origins(values: SiteValues) -> dict[str, Location]:
    """Return the location of every value of a spec by its dotted field."""
    return dict(leaves(values.tree)) | values.origins


def _may_hold_fields(node: Node | None) -> bool:
    return node is None or isinstance(node, Mapping) or (isinstance(node, Scalar) and node.is_null)


def _becomes_slurm_job(tree: Node | None, lookup: SiteLookup) -> bool:
    executor = text_at(tree, "cluster", "executor") or "auto"
    return executor == "slurm" or (executor == "auto" and lookup.has_slurm)


def _refuse_without_profile(tree: Node | None, problems: list[Problem]) -> None:
    allowed = "site: NAME, or HPC_YOLO_SITE; hpc-yolo site list shows the names"
    for field, value in (("gpu", None), ("cpu_bind", "auto")):
        text = text_at(tree, "cluster", field)
        if text is not None and value in (None, text) and at(tree, "cluster", "srun", "cpu-bind") is None:
            message = f"{text} needs a site profile, and none applies here"
            problems.append(Problem(_location(tree, "cluster", field), f"cluster.{field}", message, allowed))


def _location(tree: Node | None, *keys: str) -> Location:
    """Return the location of the value under `keys`, else that of `tree`."""
    found = at(tree, *keys) or tree
    return Location("command line") if found is None else found.location


def _seconds(limit: str) -> float:
    seconds = parse_limit_s(limit)
    return math.inf if seconds is None else seconds
