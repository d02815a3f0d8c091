"""Which site profile applies, and its file: names, directories, and profiles that add to another one.

Nothing here reads the environment or queries Slurm: `SiteLookup` holds what `cluster/this_site.py` found.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from collections.abc import Sequence as ListLike
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from hpc_yolo.core.package_data import YAML_SUFFIXES
from hpc_yolo.spec.convert import SectionReader
from hpc_yolo.spec.credential_rules import refuse_credentials
from hpc_yolo.spec.fields import field_types
from hpc_yolo.spec.problems import Location, Problem
from hpc_yolo.spec.profile import GpuRow, Profile, profile_findings
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.spec.yaml_merge import at, overlay, text_at
from hpc_yolo.spec.yaml_tree import Mapping, Node, Scalar, Sequence, parse_yaml, read_yaml

NO_SITE = "none"
HEAD_KEYS = ("hosts", "cluster_names", "base", "description")


class SiteLookup(msgspec.Struct, frozen=True):
    """What decides about the profile.

    Attributes:
        directories: with profiles; of several with the same name the one in the last directory counts.
        wanted: value of HPC_YOLO_SITE, where that is set.
        hosts: names of this host.
        cluster_name: returns Slurm's ClusterName, None where it is unknown; called once, and only where hosts decide
            nothing.
        has_slurm: a spec with `executor: auto` becomes a Slurm job.
    """

    directories: ListLike[Path]
    wanted: str | None
    hosts: ListLike[str]
    cluster_name: Callable[[], str | None]
    has_slurm: bool = True

    @property
    def shared(self) -> ListLike[Path]:
        """Directories between those of the package and of the user: somebody has named them, so they should exist."""
        return self.directories[1:-1]


class Head(msgspec.Struct, frozen=True):
    """The part of a profile that decides where it is used, read without the rest of its file."""

    path: Path
    hosts: tuple[str, ...]
    cluster_names: tuple[str, ...]
    base: str | None
    description: str


class Choice(msgspec.Struct, frozen=True):
    """The name of a profile, and why it applies."""

    name: str
    why: str


def profile_paths(directories: ListLike[Path]) -> dict[str, list[Path]]:
    """Return the files of each profile by name; the last one counts, the others are what it may add to."""
    found: dict[str, list[Path]] = {}
    for directory in directories:
        try:
            paths = sorted(path for path in directory.iterdir() if path.suffix in YAML_SUFFIXES)
        except OSError:
            continue
        for path in paths:
            found.setdefault(path.stem, []).append(path)
    return found


def read_head(path: Path, earlier: ListLike[Path] = (), paths: dict[str, list[Path]] | None = None) -> Head | None:
    """Return the head of the profile in `path`, with what it takes from its base; None where it is not readable.

    Args:
        path: of the profile.
        earlier: files of the same name that it replaces.
        paths: of all profiles, in which a base of another name is searched.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    head = _head_lines(text)
    if not head and any(key in text for key in HEAD_KEYS):
        head = text  # written in another style, such as {hosts: [a]}
    tree = parse_yaml(head, str(path), []) if head else None
    base = text_at(tree, "base")
    own = Head(
        path, _texts(at(tree, "hosts")), _texts(at(tree, "cluster_names")), base, text_at(tree, "description") or ""
    )
    below = list(earlier) if base == path.stem else (paths or {}).get(base or "", [])
    if base is None or not below or (own.hosts and own.cluster_names and own.description):
        return own
    inherited = read_head(below[-1], below[:-1], None if base == path.stem else _without(paths or {}, path.stem))
    if inherited is None:
        return own
    return Head(
        path,
        own.hosts or inherited.hosts,
        own.cluster_names or inherited.cluster_names,
        base,
        own.description or inherited.description,
    )


def choose(lookup: SiteLookup, written: Scalar | None, problems: list[Problem]) -> Choice | None:
    """Return the profile for a spec with `site: written`; None for no profile. Problems are added to `problems`."""
    if written is not None:
        return _named(written.text, "named by the spec", lookup, written.location, problems)
    if lookup.wanted:
        return _named(lookup.wanted, "named by HPC_YOLO_SITE", lookup, Location("HPC_YOLO_SITE"), problems)
    matching, seen = matching_profiles(lookup)
    if len(matching) > 1:
        message = f"the profiles {' and '.join(sorted(matching))} are for {seen}"
        allowed = f"site: {' or site: '.join(sorted(matching))} in the spec, or HPC_YOLO_SITE"
        problems.append(Problem(Location("site profiles"), "site", message, allowed))
        return None
    return next((Choice(name, f"for {seen}") for name in matching), None)


def matching_profiles(lookup: SiteLookup) -> tuple[list[str], str]:
    """Return the names of the profiles for this host, else for this cluster, and what they match.

    A profile that another one of them adds to is left out.
    """
    paths = profile_paths(lookup.directories)
    heads = {name: head for name, found in paths.items() if (head := read_head(found[-1], found[:-1], paths))}
    hosts = {form.lower() for host in lookup.hosts for form in (host, host.partition(".")[0])}
    matching = [name for name, head in heads.items() if _matches(hosts, head.hosts)]
    seen = f"host {lookup.hosts[0]}" if lookup.hosts else "this host"
    if not matching and any(head.cluster_names for head in heads.values()) and (cluster := lookup.cluster_name()):
        matching = [name for name, head in heads.items() if _matches({cluster.lower()}, head.cluster_names)]
        seen = f"cluster {cluster}"
    bases = {heads[name].base for name in matching if heads[name].base != name}
    return [name for name in matching if name not in bases], seen


def read_profile(name: str, lookup: SiteLookup, problems: list[Problem]) -> tuple[Mapping, Profile] | None:
    """Return the tree of the profile `name`, with what it takes from its base, and its fields.

    Problems are added to `problems`; None after one.
    """
    paths = profile_paths(lookup.directories)
    return check_profile(paths[name][-1], paths, problems)


def check_profile(path: Path, paths: dict[str, list[Path]], problems: list[Problem]) -> tuple[Mapping, Profile] | None:
    """Return the tree and the fields of the profile in `path`; None after a problem, all of which are in `problems`.

    Args:
        path: of the profile.
        paths: of the profiles that it may add to, by name.
        problems: those of the profile are added.
    """
    reader = SectionReader(_known_fields())
    root = Location(str(path), 1, 1)
    tree = _with_base(path, paths, reader.problems, ())
    profile = reader.read(tree, Profile, "", root)
    for finding in profile_findings(profile):
        if not any(finding.field == bad or finding.field.startswith(f"{bad}.") for bad in reader.unusable):
            location = location_in(tree, finding.field) or reader.locations.get(finding.field, root)
            reader.problems.append(Problem(location, finding.field, finding.message, finding.allowed))
    refuse_credentials(tree, path, reader.problems)
    problems += reader.problems
    if reader.problems or not isinstance(tree, Mapping):
        if not reader.problems:
            problems.append(Problem(root, "", "is empty", "the fields of a site profile, such as cluster and gpus"))
        return None
    return tree, profile


def unknown_site(name: str, lookup: SiteLookup) -> tuple[str, str]:
    """Return (message, what is allowed) for the name of a profile that does not exist."""
    known = sorted(profile_paths(lookup.directories))
    near = difflib.get_close_matches(name, known, n=1)
    missing = [str(directory) for directory in lookup.shared if not directory.is_dir()]
    searched = f" ({', '.join(missing)}: no such directory)" if missing else ""
    nearest = f"{near[0]} is the nearest of " if near else ""
    return f"there is no profile {name!r}{searched}", f"{nearest}{', '.join([*known, NO_SITE])}"


def _named(name: str, why: str, lookup: SiteLookup, location: Location, problems: list[Problem]) -> Choice | None:
    if name == NO_SITE:
        return None
    if name in profile_paths(lookup.directories):
        return Choice(name, why)
    problems.append(Problem(location, "site", *unknown_site(name, lookup)))
    return None


def _with_base(
    path: Path, paths: dict[str, list[Path]], problems: list[Problem], above: tuple[Path, ...]
) -> Node | None:
    """Return the tree of the profile in `path` on top of the tree of its base."""
    tree = read_yaml(path, problems)
    base = text_at(tree, "base")
    if base is None:
        return tree
    candidates = [other for other in paths.get(base, []) if other not in (path, *above)]
    if base == path.stem and path in paths.get(base, []):
        candidates = candidates[: paths[base].index(path)]
    location = location_in(tree, "base") or Location(str(path), 1, 1)
    if not candidates:
        is_loop = base in paths and base != path.stem
        message = f"{base} adds to this profile itself" if is_loop else f"there is no other profile {base!r}"
        problems.append(Problem(location, "base", message, ", ".join(sorted(set(paths) - {path.stem})) or "null"))
        return tree
    return overlay(_with_base(candidates[-1], paths, problems, (path, *above)), tree)


def location_in(tree: Node | None, path: str) -> Location | None:
    """Return the location of the dotted field `path`, else of the nearest field around it; None without any."""
    location, rest = None, path
    while rest and isinstance(tree, Mapping | Sequence):
        if isinstance(tree, Sequence):
            found = re.match(r"\[(\d+)\]\.?", rest)
            if found is None or int(found[1]) >= len(tree.items):
                break
            tree, rest = tree.items[int(found[1])], rest[found.end() :]
        else:
            keys = [key for key in tree.keys if rest == key or rest.startswith((f"{key}.", f"{key}["))]
            if not keys:
                break
            key = max(keys, key=len)
            location = tree.keys[key]
            tree, rest = tree.values.get(key), rest[len(key) :].removeprefix(".")
        if isinstance(tree, Scalar | Sequence):
            location = tree.location
    return location


def _head_lines(text: str) -> str:
    """Return the lines of `HEAD_KEYS` on the first level: those of a key, and the items and indented lines below."""
    kept: list[str] = []
    is_wanted = False
    for line in text.splitlines():
        if line[:1] not in ("", " ", "\t", "#", "-"):
            is_wanted = line.lstrip("\"'").startswith(HEAD_KEYS)
        if is_wanted:
            kept.append(line)
    return "\n".join(kept)


def _known_fields() -> dict[str, str]:
    """Return last part of every field of a profile -> its dotted path."""
    rows = {name: f"gpus.NAME.{name}" for name in field_types(GpuRow)}
    rows |= {name: f"cluster.{name}" for name in field_types(ClusterSpec)}
    return rows | {name: name for name in field_types(Profile)}


def _texts(node: Node | None) -> tuple[str, ...]:
    items = node.items if isinstance(node, Sequence) else [node]
    return tuple(item.text for item in items if isinstance(item, Scalar))


def _matches(names: set[str], patterns: ListLike[str]) -> bool:
    return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in patterns)


def _without(paths: dict[str, list[Path]], name: str) -> dict[str, list[Path]]:
    return {other: found for other, found in paths.items() if other != name}
