"""YAML to `Spec` and back. Everything that is wrong is told at once, with its place."""

from __future__ import annotations

import re
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import yaml

from hpc_yolo.errors import SpecError
from hpc_yolo.spec import rules
from hpc_yolo.spec.hyperparameters import hyperparameter_findings
from hpc_yolo.spec.parse import Mapping, Node, control_characters, parse_yaml
from hpc_yolo.spec.problems import Place, Problem, format_problems
from hpc_yolo.spec.read import SectionReader, field_types
from hpc_yolo.spec.schema import CheckpointSpec, ClusterSpec, Spec, TrainSpec

SECTIONS = {"cluster": ClusterSpec, "train": TrainSpec, "checkpoint": CheckpointSpec}


@dataclass(frozen=True)
class Override:
    """A field set on the command line: dotted `path`, its value as `text`, and how errors name it (`origin`)."""

    path: str
    text: str
    origin: str


def load_spec(path: Path, overrides: ListLike[Override] = ()) -> Spec:
    """The spec in `path` with `overrides` on top. Paths in it become absolute.

    A relative path to data, weights, a model or hyperparameters is looked for beside the spec and then in the working
    directory; `output` is relative to the working directory.

    Raises:
        SpecError: with all that is wrong.
    """
    spec, problems = check_spec(path, overrides)
    if problems:
        raise SpecError(format_problems(problems))
    return spec


def check_spec(path: Path, overrides: ListLike[Override] = ()) -> tuple[Spec, list[Problem]]:
    """(the spec, what is wrong with it); with problems the spec has stand-ins and is of no use."""
    reader = SectionReader(known_fields())
    root = Place(str(path), 1, 1)
    tree = _read_file(path, reader.problems)
    unreadable = bool(reader.problems) and tree is None
    for override in overrides:
        tree = _with_override(tree, override, reader.problems)
    if unreadable:
        return Spec(name="", model="", data=""), reader.problems
    spec = reader.read(tree, Spec, "", root)
    for field, message, allowed in (*rules.findings(spec), *hyperparameter_findings(spec.train, path.parent)):
        if not any(field == bad or field.startswith(f"{bad}.") for bad in reader.unusable):
            reader.problems.append(Problem(_place_of(field, tree, reader, root), field, message, allowed))
    return _with_absolute_paths(spec, path.parent), reader.problems


def dump_spec(spec: Spec) -> str:
    """YAML that `load_spec` reads back as the same spec."""
    return yaml.safe_dump(msgspec.to_builtins(spec), sort_keys=False, allow_unicode=True, width=10_000)


def known_fields() -> dict[str, str]:
    """Last part of every field -> its dotted path."""
    fields = {name: name for name in field_types(Spec)}
    for section_name, section in SECTIONS.items():
        fields |= {name: f"{section_name}.{name}" for name in field_types(section)}
    return fields


def _read_file(path: Path, problems: list[Problem]) -> Node | None:
    whole = Place(str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(other) for folder in (path.parent, Path("configs")) for other in folder.glob("*.yaml"))
        problems.append(Problem(whole, "", "there is no such file", ", ".join(near[:5])))
        return None
    except IsADirectoryError:
        problems.append(Problem(whole, "", "is a folder", "a YAML file"))
        return None
    except UnicodeDecodeError as error:
        problems.append(Problem(whole, "", f"is not UTF-8 text (byte {error.start})", "a YAML file in UTF-8"))
        return None
    except OSError as error:
        problems.append(Problem(whole, "", f"cannot be read: {error.strerror}"))
        return None
    return parse_yaml(text, str(path), problems)


def _with_override(tree: Node | None, override: Override, problems: list[Problem]) -> Node | None:
    """`tree` with the override's value in its place, as if it had been written there."""
    place = Place(override.origin)
    if bad := control_characters(override.path + override.text):
        problems.append(Problem(Place(ascii(override.origin)), "", f"control characters {bad}", "printable text"))
        return tree
    value = parse_yaml(override.text or "''", override.origin, problems, is_option=True)
    if value is None:
        return tree
    parts = override.path.split(".")
    if not all(parts):
        problems.append(Problem(place, override.path, "is not a field", "such as train.epochs"))
        return tree
    return _placed(tree, parts, value, place)


def _placed(tree: Node | None, parts: list[str], value: Node, place: Place) -> Node:
    if not parts:
        return value
    base = tree if isinstance(tree, Mapping) else Mapping(place)
    key, rest = parts[0], parts[1:]
    keys = {**base.keys, key: place if not rest else base.keys.get(key, place)}
    return replace(base, keys=keys, values={**base.values, key: _placed(base.values.get(key), rest, value, place)})


def _place_of(field: str, tree: Node | None, reader: SectionReader, root: Place) -> Place:
    """Where a finding points: the field's value, the key of a free name, or the nearest section that was written."""
    node, place = tree, root
    for part in re.findall(r"[^.]+", field):
        if not isinstance(node, Mapping) or part not in node.keys:
            break
        place = node.values[part].place if part in node.values else node.keys[part]
        if isinstance(node.values.get(part), Mapping):
            place = node.keys[part]
        node = node.values.get(part)
    return reader.places.get(field, place)


def _with_absolute_paths(spec: Spec, folder: Path) -> Spec:
    train, model, weights = spec.train, spec.model, spec.weights
    if Path(train.hyp).suffix:
        train = msgspec.structs.replace(train, hyp=_absolute(train.hyp, folder))
    if Path(model).suffix in (".yaml", ".yml"):
        model = _absolute(model, folder)
    if weights:
        weights = _absolute(weights, folder)
    return msgspec.structs.replace(
        spec,
        model=model,
        weights=weights,
        train=train,
        data=_absolute(spec.data, folder),
        output=str(Path(spec.output).absolute()),
    )


def _absolute(path: str, folder: Path) -> str:
    beside = (folder / path).absolute()
    return str(beside if beside.exists() else Path(path).absolute())
