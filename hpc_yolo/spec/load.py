"""Read YAML as a `Spec` and write it. All problems are reported at once, with their locations."""

from __future__ import annotations

import os
from collections.abc import Sequence as ListLike
from pathlib import Path
from typing import Any

import msgspec
import yaml

from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.package_data import shipped_dataset
from hpc_yolo.spec import validate
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.container import ContainerSpec, image_form
from hpc_yolo.spec.convert import SectionReader, is_null
from hpc_yolo.spec.credential_rules import refuse_credentials
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.fields import field_types
from hpc_yolo.spec.hyperparameters import hyperparameter_findings, is_name
from hpc_yolo.spec.notify import NotifySpec
from hpc_yolo.spec.paths import has_variables, with_expanded_paths
from hpc_yolo.spec.problems import Location, Problem, format_problems
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.short_forms import long_form, long_name
from hpc_yolo.spec.site_files import SiteLookup
from hpc_yolo.spec.site_values import AppliedSite, SiteValues, refuse_site_paths, value_origins, with_site_values
from hpc_yolo.spec.stages import BEST, LAST, PredictStage, Stage
from hpc_yolo.spec.sweep import SweepSpec
from hpc_yolo.spec.sweep_search import Range, Value
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.spec.yaml_tree import (
    Mapping,
    Node,
    Scalar,
    Sequence,
    allowed_in,
    control_characters,
    parse_yaml,
    read_yaml,
)

PATHS = ("model", "data", "weights", "train.hyp")  # fields of a trial that may be paths
RESOLVED_FIELDS = frozenset({"site", "cluster.gpu", "cluster.cpu_bind"})
# A name in several sections is suggested in the last one.
SECTIONS = {
    "notify": NotifySpec,
    "cluster.container": ContainerSpec,
    "cluster": ClusterSpec,
    "train": TrainSpec,
    "checkpoint": CheckpointSpec,
}


class Override(msgspec.Struct, frozen=True):
    """A field set on the command line: dotted `path`, its value as `text`, and how errors name it (`origin`)."""

    path: str
    text: str
    origin: str


class LoadedSpec(msgspec.Struct, frozen=True):
    """A spec, the location of each of its values by dotted field, and the site profile that completes it."""

    spec: Spec
    origins: dict[str, Location]
    site: AppliedSite | None


def load_spec(path: Path | None, overrides: ListLike[Override] = (), sites: SiteLookup | None = None) -> Spec:
    """Return the spec in `path`, or of overrides alone, with `overrides` on top. Paths in it become absolute.

    A relative path to data, weights, a model or hyperparameters is searched beside the spec and then in the working
    directory, a dataset then by name among the shipped ones; `output` is relative to the working directory.

    Args:
        path: of the spec.
        overrides: of the command line.
        sites: finds the site profile that completes the spec of a Slurm job; None for a task, which needs none.

    Raises:
        SpecError: with all problems.
    """
    return load_with_origins(path, overrides, sites).spec


def load_with_origins(path: Path | None, overrides: ListLike[Override], sites: SiteLookup | None) -> LoadedSpec:
    """Return the spec as `load_spec` does, and where its values come from.

    Raises:
        SpecError: with all problems.
    """
    loaded, problems = _check(path, overrides, sites=sites)
    if problems:
        in_files = {problem.location.source for problem in problems if not problem.location.is_option}
        what = "the spec" if in_files <= {str(path)} else "the spec and its site profile"
        raise SpecError(format_problems(problems, what))
    return loaded


def load_resolved_spec(path: Path, overrides: ListLike[Override] = ()) -> Spec:
    """Return the spec that `dump_spec` wrote to `path`, with `overrides` on top; files that it names are not read.

    A run has copies of its inputs, and continues with them even if the files have changed.

    Raises:
        SpecError: with all problems; also for an override of a field that a site profile has resolved.
    """
    spec, problems = check_spec(path, overrides, reads_files=False)
    problems += [
        Problem(Location(override.origin), override.path, "is resolved at submission", "submit the spec again")
        for override in overrides
        if override.path in RESOLVED_FIELDS
    ]
    if problems:
        raise SpecError(format_problems(problems))
    return spec


def check_spec(
    path: Path | None, overrides: ListLike[Override] = (), *, reads_files: bool = True
) -> tuple[Spec, list[Problem]]:
    """Return (the spec, its problems); with problems the spec has stand-ins and must not be used.

    Args:
        reads_files: read the file of hyperparameters too.
    """
    loaded, problems = _check(path, overrides, reads_files=reads_files)
    return loaded.spec, problems


def _check(
    path: Path | None,
    overrides: ListLike[Override],
    *,
    reads_files: bool = True,
    sites: SiteLookup | None = None,
) -> tuple[LoadedSpec, list[Problem]]:
    reader = SectionReader(known_fields())
    root = Location("command line") if path is None else Location(str(path), 1, 1)
    tree = None if path is None else long_form(read_yaml(path, reader.problems))
    directory = Path() if path is None else path.parent
    unreadable = bool(reader.problems) and tree is None
    for override in overrides:
        tree = _with_override(tree, override, reader.problems)
    written = path if reads_files else None
    if unreadable:
        refuse_credentials(None, written, reader.problems)
        return LoadedSpec(Spec(name="", model="", data=DataSpec(path="")), {}, None), reader.problems
    values = SiteValues(tree, None, {}) if sites is None else with_site_values(tree, sites, reader.problems)
    tree = values.tree
    if values.site is None and not reader.problems:
        refuse_site_paths(tree, reader.problems)
    spec, in_paths = with_expanded_paths(reader.read(tree, Spec, "", root))
    in_files = hyperparameter_findings(spec.train, directory, spec.model) if reads_files else ()
    for finding in (*validate.findings(spec), *in_paths, *in_files):
        used = (finding.field, *finding.needs)
        if not any(field == bad or field.startswith(f"{bad}.") for bad in reader.unusable for field in used):
            location = _location_of(finding.field, tree, reader, root)
            reader.problems.append(Problem(location, finding.field, finding.message, finding.allowed))
    refuse_credentials(tree, written, reader.problems)
    resolved = _with_absolute_paths(spec, directory)
    if resolved.sweep is not None and not reader.problems:
        resolved = msgspec.structs.replace(resolved, sweep=_with_absolute_values(resolved, resolved.sweep, directory))
    return LoadedSpec(resolved, value_origins(values), values.site), reader.problems


def dump_spec(spec: Spec) -> str:
    """Return YAML that `load_spec` reads as the same spec."""
    return yaml.safe_dump(msgspec.to_builtins(spec), sort_keys=False, allow_unicode=True, width=10_000)


def known_fields() -> dict[str, str]:
    """Return last part of every field, or name of a hyperparameter -> its dotted path."""
    fields = {name: f"train.hyp_overrides.{name}" for name in field_types(Hyperparameters)}
    fields |= {name: name for name in field_types(Spec)}
    for section_name, section in SECTIONS.items():
        fields |= {name: f"{section_name}.{name}" for name in field_types(section)}
    return fields


def _with_override(tree: Node | None, override: Override, problems: list[Problem]) -> Node | None:
    """Return `tree` with the value of `override`, as if it were in the file."""
    location = Location(override.origin)
    if bad := control_characters(override.path) or control_characters(override.text, allowed=allowed_in(override.path)):
        problems.append(Problem(Location(ascii(override.origin)), "", f"control characters {bad}", "printable text"))
        return tree
    before = len(problems)
    value = parse_yaml(override.text or "''", override.origin, problems, is_option=True, path=override.path)
    parts = (long_name(override.path) if isinstance(value, Scalar) else override.path).split(".")
    if not all(parts):
        problems.append(Problem(location, override.path, "is not a field", "such as train.epochs"))
    elif "[" in override.path:
        problems.append(
            Problem(
                location, override.path, "is an item of a list, which is set as a whole", "such as then=[{report: {}}]"
            )
        )
    elif not _may_hold(tree, parts):
        problems.append(
            Problem(location, override.path, "is inside a field that holds no fields", "such as train.epochs")
        )
    elif value is None and len(problems) == before:
        problems.append(Problem(location, override.path, "no value, only a comment", "a value, or quotes around it"))
    return tree if value is None or len(problems) > before else _with_value_at(tree, parts, value, location)


def _may_hold(tree: Node | None, parts: list[str]) -> bool:
    """Return True if all fields on the way to the last of `parts` are groups of fields."""
    node = tree
    for part in parts:
        if node is None or is_null(node):
            return True
        if not isinstance(node, Mapping):
            return False
        node = node.values.get(part)
    return True


def _with_value_at(tree: Node | None, parts: list[str], value: Node, location: Location) -> Node:
    if not parts:
        return value
    base = tree if isinstance(tree, Mapping) else Mapping(location)
    key, rest = parts[0], parts[1:]
    keys = {**base.keys, key: location if not rest else base.keys.get(key, location)}
    return msgspec.structs.replace(
        base, keys=keys, values={**base.values, key: _with_value_at(base.values.get(key), rest, value, location)}
    )


def _location_of(field: str, tree: Node | None, reader: SectionReader, root: Location) -> Location:
    """Return the location of a finding: the field's value, the key of a free name, or the nearest section."""
    node, location = tree, root
    rest = field
    while rest and isinstance(node, Mapping):
        part = rest if rest in node.keys else rest.partition(".")[0]  # a free name may have dots in it
        if (item := _item_of(node, part)) is not None:
            node, location, rest = item, item.location, rest[len(part) + 1 :]
            continue
        if part not in node.keys:
            break
        inner = node.values.get(part)
        location = node.keys[part] if inner is None or isinstance(inner, Mapping) else inner.location
        node, rest = inner, rest[len(part) + 1 :]
    return reader.locations.get(field, location)


def _item_of(node: Mapping, part: str) -> Node | None:
    """Return the item of a list in `node` that `part` names, such as mounts[0]; None for another name."""
    name, bracket, index = part.rstrip("]").partition("[")
    items = node.values.get(name)
    is_item = bracket and isinstance(items, Sequence) and index.isdecimal() and int(index) < len(items.items)
    return items.items[int(index)] if is_item and isinstance(items, Sequence) else None


def _with_absolute_paths(spec: Spec, directory: Path) -> Spec:
    train, model, weights, cluster = spec.train, spec.model, spec.weights, spec.cluster
    if cluster.python is not None and "/" in cluster.python:
        python = _absolute(os.path.expanduser(cluster.python), directory)  # noqa: PTH111, it takes any text
        cluster = msgspec.structs.replace(cluster, python=python)
    container = cluster.container
    if container is not None and _is_relative_image(container.image, directory):
        container = msgspec.structs.replace(container, image=_absolute(container.image, directory))
        cluster = msgspec.structs.replace(cluster, container=container)
    if not is_name(train.hyp):
        train = msgspec.structs.replace(train, hyp=_absolute(train.hyp, directory))
    if Path(model).suffix in (".yaml", ".yml"):
        model = _absolute(model, directory)
    if weights:
        weights = _absolute(weights, directory)
    return msgspec.structs.replace(
        spec,
        then=[_with_absolute_step(stage, directory) for stage in spec.then],
        model=model,
        weights=weights,
        cluster=cluster,
        train=train,
        data=_with_absolute_data(spec.data, directory),
        output=str(Path(spec.output).absolute()),
    )


def _with_absolute_values(spec: Spec, sweep: SweepSpec, directory: Path) -> SweepSpec:
    """Return `sweep` with absolute paths as values of the fields that are paths."""
    from hpc_yolo.spec.trials import value_at, with_values  # 9 ms, of no use without a sweep

    def resolved(field: str, value: Value) -> Value:
        if field not in PATHS or not isinstance(value, str):
            return value
        trial, _ = with_expanded_paths(with_values(spec, {field: value}))
        return str(value_at(_with_absolute_paths(trial, directory), field))

    search = sweep.search
    if search is not None and not isinstance(search.space, str):
        space = {
            field: kind if isinstance(kind, Range) else [resolved(field, value) for value in kind]
            for field, kind in search.space.items()
        }
        search = msgspec.structs.replace(search, space=space)
    return msgspec.structs.replace(
        sweep,
        search=search,
        grid={field: [resolved(field, value) for value in values] for field, values in sweep.grid.items()},
        variants=[{field: resolved(field, value) for field, value in variant.items()} for variant in sweep.variants],
    )


def _is_relative_image(image: str, directory: Path) -> bool:
    """Return True for a relative path; False for docker://… and a name that a container runtime looks up."""
    form = image_form(image)
    if form == "name":
        return image != "" and any(os.path.exists(base / image) for base in (directory, Path()))  # noqa: PTH110
    return form != "address" and not image.startswith(("/", "$", "~"))


def _with_absolute_step(stage: Stage, directory: Path) -> Stage:
    """Return `stage` with absolute paths of weights that are files, and of sources that exist."""
    for kind in stage.kinds:
        step = getattr(stage, kind)
        if getattr(step, "weights", BEST) not in ("", BEST, LAST):
            step = msgspec.structs.replace(step, weights=_absolute(step.weights, directory))
        if isinstance(step, PredictStage):
            step = msgspec.structs.replace(step, source=[source_path(one, directory) for one in step.sources])
        stage = msgspec.structs.replace(stage, **{kind: step})
    return stage


def source_path(written: str, directory: Path) -> str:
    """Return a source of predict with an absolute path; an address, the number of a camera, and "" are kept."""
    return written if not written or "://" in written or written.isdecimal() else _absolute(written, directory)


def _dataset_path(written: str, directory: Path) -> str:
    """Return the absolute path of a dataset: beside the spec, in the working directory, or a shipped YAML.

    A path with variables is returned as it is: each node expands it.
    """
    if has_variables(written):
        return written
    path = _absolute(written, directory)
    is_there = os.path.isfile(path) or os.path.isfile(f"{path}/dataset.yaml")  # noqa: PTH113, it takes any text
    shipped = None if is_there else shipped_dataset(written)
    return path if shipped is None else str(shipped)


def _with_absolute_data(data: DataSpec, directory: Path) -> DataSpec:
    """Return `data` with absolute paths but those with variables, which each node expands."""
    if not data.is_inline:
        return msgspec.structs.replace(data, path=_dataset_path(data.path, directory)) if data.path else data

    def absolute(path: str) -> str:
        return path if not path or has_variables(path) else _absolute(path, directory)

    values: dict[str, Any] = {name: absolute(getattr(data, name)) for name in data.DIRECTORIES}
    for name in data.LABEL_FILES:
        written = getattr(data, name)
        values[name] = [absolute(path) for path in written] if isinstance(written, list) else absolute(written)
    return msgspec.structs.replace(data, **values)


def _absolute(path: str, directory: Path) -> str:
    beside = (directory / path).absolute()
    return str(beside if _is_there(beside) else Path(path).absolute())


def _is_there(path: Path) -> bool:
    """Return True if `path` exists, or goes through a file, which may be an archive."""
    return os.path.exists(path) or any(map(os.path.isfile, path.parents))  # noqa: PTH110, they take any text
