"""`hpc-yolo site`: list, show and check site profiles, and write a draft of one."""

from __future__ import annotations

import getpass
import json
import platform
import re
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml
from rich.table import Table

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.profile_checks import ask_slurm, slurm_findings
from hpc_yolo.cluster.profile_draft import ask_site, draft
from hpc_yolo.cluster.scheduler import is_installed
from hpc_yolo.cluster.this_site import site_lookup, user_directory
from hpc_yolo.core.errors import ClusterError, SpecError
from hpc_yolo.core.package_data import YAML_SUFFIXES
from hpc_yolo.monitor.console import data_console
from hpc_yolo.spec.fields import field_infos
from hpc_yolo.spec.problems import Location, Problem, format_problems
from hpc_yolo.spec.profile import Profile
from hpc_yolo.spec.schema import NAME_ALLOWED, NAME_PATTERN
from hpc_yolo.spec.section import Section
from hpc_yolo.spec.site_files import (
    SiteLookup,
    check_profile,
    choose,
    location_in,
    profile_paths,
    read_head,
    unknown_site,
)

PIPE_COLUMNS = 200


@click.group()
def site() -> None:
    """List, show, check and draft site profiles: what a cluster needs, written down once for all specs.

    A spec names one with site: NAME. Otherwise HPC_YOLO_SITE counts, then the profile that names this host or Slurm's
    cluster; site: none uses no profile. Profiles are in the package, in the directories of HPC_YOLO_SITES (separated by
    colons) and in ~/.config/hpc-yolo/sites; of several with one name the last counts. See docs/sites.md.
    """


@site.command(name="list", short_help="List the profiles, and which one applies here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def list_sites(as_json: bool) -> None:
    """List the profiles with their origin, and which one applies on this machine and why."""
    lookup = site_lookup()
    paths = profile_paths(lookup.directories)
    problems: list[Problem] = []
    choice = choose(lookup, None, problems)
    rows = []
    for name, found in sorted(paths.items()):
        head = read_head(found[-1], found[:-1], paths)
        description = "not readable" if head is None else head.description
        applies = choice is not None and choice.name == name
        rows.append({"name": name, "applies": applies, "description": description, "path": str(found[-1])})
    why = choice.why if choice is not None else "; ".join(problem.message for problem in problems)
    if as_json:
        click.echo(json.dumps({"sites": rows, "why": why}, indent=2))
        return
    width = max((len(str(row["name"])) for row in rows), default=4)
    for row in rows:
        origin = "" if Path(str(row["path"])).parent == lookup.directories[0] else f"  ({row['path']})"
        click.echo(f"{'*' if row['applies'] else ' '} {row['name']:{width}}  {row['description']}{origin}")
    for directory in lookup.shared:
        if not directory.is_dir():
            click.echo(f"HPC_YOLO_SITES: {directory}: no such directory", err=True)
    if choice is not None:
        click.echo(f"\n{choice.name} applies here: {choice.why}")
    else:
        reason = f"{why}: " if why else ""
        click.echo(f"\n{reason}none applies here; a spec names one with site: NAME, or set HPC_YOLO_SITE")


@site.command(short_help="Show a profile with its table of GPU types.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def show(name: str, as_json: bool) -> None:
    """Show the profile NAME, with what it takes from the profile that it adds to."""
    lookup = site_lookup()
    path = _path_of(name, lookup)
    problems: list[Problem] = []
    read = check_profile(path, profile_paths(lookup.directories), problems)
    if read is None:
        raise SpecError(format_problems(problems, f"the profile {name}"))
    profile = read[1]
    if as_json:
        click.echo(json.dumps(_changed(profile), indent=2))
        return
    click.echo(f"{name}: {profile.description}\n{path}\nfacts of {profile.date or '?'}: {profile.source or '-'}")
    written = _changed(profile)
    rest = {key: written[key] for key in written if key not in ("description", "source", "date", "gpus")}
    if rest:
        click.echo("\n" + yaml.safe_dump(rest, sort_keys=False, allow_unicode=True), nl=False)
    if profile.gpus:
        click.echo()
        _print_gpus(profile)


@site.command(short_help="Report every mistake of a profile.")
@click.argument("profile", metavar="NAME|FILE")
def check(profile: str) -> None:
    """Report every mistake of a profile with file, line and column.

    Where Slurm answers, its partitions, qualities of service and your accounts are compared too. Exit code: 2 for a
    mistake, 4 for a name that Slurm does not know.
    """
    lookup = site_lookup()
    path = Path(profile) if Path(profile).suffix in YAML_SUFFIXES else _path_of(profile, lookup)
    problems: list[Problem] = []
    read = check_profile(path, profile_paths(lookup.directories), problems)
    if read is None:
        raise SpecError(format_problems(problems, f"the profile {path.stem}"))
    tree, checked = read
    click.echo(f"{path}: valid, {len(checked.gpus)} types of GPU")
    if not is_installed():
        return
    names = ask_slurm(getpass.getuser())
    for sentence in names.unanswered:
        click.echo(f"not compared with Slurm: {' '.join(sentence.split())}")
    problems = [
        Problem(
            location_in(tree, finding.field) or Location(str(path)), finding.field, finding.message, finding.allowed
        )
        for finding in slurm_findings(checked, names)
    ]
    if problems:
        raise ClusterError(format_problems(problems, f"the profile {path.stem}"))


@site.command(short_help="Write a draft from what Slurm answers here.")
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File. [default: among your own profiles]")
def new(name: str, output: Path | None) -> None:
    """Write a draft of a profile NAME from what sinfo, scontrol and sacctmgr answer on this machine.

    Each query has a time limit; what is not answered becomes a comment. An existing file is not overwritten.
    """
    if not re.match(NAME_PATTERN, name):
        raise click.UsageError(f"{name!r} is not a name: {NAME_ALLOWED}")
    environ = dict(current_environment())
    path = output or user_directory(environ) / f"{name}.yaml"
    if path.exists():
        raise SpecError(f"{path} exists and is not overwritten", hint="name another file with --output FILE")
    text = draft(name, platform.node(), ask_site(getpass.getuser(), environ))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:  # never over a file that appeared in the meantime
            file.write(text)
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error.strerror}", hint="name another file with --output") from None
    click.echo(f"{path}\n  complete it, then:  hpc-yolo site check {name if output is None else path}")


def _path_of(name: str, lookup: SiteLookup) -> Path:
    """Return the file of the profile `name`.

    Raises:
        SpecError: there is none.
    """
    paths = profile_paths(lookup.directories)
    if name not in paths:
        message, allowed = unknown_site(name, lookup)
        raise SpecError(message, hint=f"allowed: {allowed}")
    return paths[name][-1]


def _changed(value: object) -> Any:
    """Return `value` with sections as the fields that differ from their defaults."""
    if isinstance(value, dict):
        return {name: _changed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_changed(item) for item in value]
    if not isinstance(value, Section):
        return value
    fields = {field.name: field for field in field_infos(type(value))}
    shown = {name: getattr(value, name) for name, field in fields.items() if field.required}
    shown |= {name: getattr(value, name) for name, field in fields.items() if getattr(value, name) != _default(field)}
    return {name: _changed(item) for name, item in shown.items()}


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _print_gpus(profile: Profile) -> None:
    """Print the table of GPU types: a column for each field that a row has."""
    rows = _changed(profile.gpus)
    columns = sorted({name for row in rows.values() for name in row}, key=_order)
    console = data_console(pipe_columns=PIPE_COLUMNS, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("gpu", *columns):
        table.add_column(name, overflow="fold")
    for name, row in rows.items():
        table.add_row(name, *(_cell(row.get(column)) for column in columns))
    console.print(table)


def _order(name: str) -> tuple[int, str]:
    first = ("partition", "qos", "constraint", "gpu_type", "gpus_per_node", "cpus_per_task", "mem_per_gpu", "max_time")
    return (first.index(name) if name in first else len(first), name)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={item}" if name != "up_to" else f"≤{item}" for name, item in value.items())
    return str(value)
