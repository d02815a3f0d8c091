"""Hyperparameters: a set of configs/hyp or a file of the user, with single values on top.

With `train.hyp: auto` the YAML of a model names its set (`hyp: af-low`); models that name none, and those whose layers
come from weights, have scratch-low.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.spec.convert import SectionReader
from hpc_yolo.spec.fields import describe, field_types
from hpc_yolo.spec.model_config import has_anchors, load_config, model_path
from hpc_yolo.spec.problems import Finding, Location, Problem, format_problems
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.spec.yaml_tree import Mapping, Node, read_yaml

AUTO, USUAL = "auto", "scratch-low"
IGNORED = ("iou_t",)  # in every hyperparameter file of YOLOv5, and used by no term of its loss


def load_hyperparameters(train: TrainSpec, model: str = "") -> Hyperparameters:
    """Return the hyperparameters of `train.hyp` and `train.hyp_overrides`.

    Args:
        model: name or YAML of the model, for `train.hyp: auto`; "" for layers that come from weights.

    Raises:
        SpecError: the file is missing or wrong, or there is no such model or set.
    """
    name = set_of_model(model) if train.hyp == AUTO else train.hyp
    hyp, problems = read_hyperparameters(hyperparameter_file(name, Path()))
    if problems:
        raise SpecError(format_problems(problems))
    overrides = {name: _plain_number(value) for name, value in train.hyp_overrides.items()}
    return msgspec.convert({**msgspec.to_builtins(hyp), **overrides}, Hyperparameters)


def set_of_model(model: str) -> str:
    """Return the name of the set that the YAML of `model` names, else of the usual one.

    Raises:
        SpecError: there is no such model or set.
    """
    name = load_config(model).get("hyp", USUAL) if model else USUAL
    if name not in hyperparameter_names():
        raise SpecError(
            f"model: {model_path(model)}: hyp: there is no set {name!r}",
            hint=f"name one of {', '.join(hyperparameter_names())}; or leave it out, and give a file in train.hyp",
        )
    return str(name)


def read_hyperparameters(path: Path) -> tuple[Hyperparameters, list[Problem]]:
    """Return (the hyperparameters in the file `path`, its problems)."""
    reader = SectionReader({})
    tree = _read_file(path, reader.problems)
    return reader.read(tree, Hyperparameters, "", Location(str(path), 1, 1)), reader.problems


def written_hyperparameters(path: Path) -> dict[str, float | None]:
    """Return the hyperparameters that the file `path` sets, by name, without those at their defaults.

    Raises:
        SpecError: the file is wrong.
    """
    reader = SectionReader({})
    tree = _read_file(path, reader.problems)
    hyp = reader.read(tree, Hyperparameters, "", Location(str(path), 1, 1))
    if reader.problems:
        raise SpecError(format_problems(reader.problems))
    return {name: getattr(hyp, name) for name in tree.keys} if isinstance(tree, Mapping) else {}


def own_hyperparameter_file(train: TrainSpec) -> Path | None:
    """Return the file that `train.hyp` names; None for a set that comes with the package."""
    return None if is_name(train.hyp) else Path(train.hyp)


def hyperparameter_findings(train: TrainSpec, directory: Path, model: str) -> Iterator[Finding]:
    """Yield the problems of hyp and hyp_overrides in the training of `model`."""
    path = hyperparameter_file(USUAL if train.hyp == AUTO else train.hyp, directory)
    if not os.path.isfile(path):  # noqa: PTH113, unlike pathlib's it takes any text for a path
        names = ", ".join((AUTO, *hyperparameter_names()))
        yield Finding("train.hyp", f"there is no {train.hyp!r}", f"{names}, or a file")
    else:
        hyp, problems = read_hyperparameters(path)
        for problem in problems:
            yield Finding("train.hyp", problem.headline, problem.allowed)
        if hyp.anchors or "anchors" in train.hyp_overrides:
            yield from _anchor_findings(train, model)
    kinds = field_types(Hyperparameters)
    for name, value in train.hyp_overrides.items():
        yield from _override_findings(name, value, kinds)


def hyperparameter_names() -> list[str]:
    """Return the names of the sets in the package."""
    return sorted(path.stem for path in (resource_directory("configs") / "hyp").glob("*.yaml"))


def is_name(hyp: str) -> bool:
    """Return whether a value of `train.hyp` is a name, not a file."""
    return hyp == AUTO or hyp in hyperparameter_names()


def hyperparameter_file(name: str, directory: Path) -> Path:
    """Return the path of the set `name`: in the package, beside the spec, or in the working directory."""
    if name in hyperparameter_names():
        return resource_directory("configs") / "hyp" / f"{name}.yaml"
    beside = directory / name
    return beside if os.path.isfile(beside) else Path(name)  # noqa: PTH113, as above


def _read_file(path: Path, problems: list[Problem]) -> Node | None:
    """Return the tree in `path` without the hyperparameters that have no effect."""
    tree = read_yaml(path, problems)
    if not isinstance(tree, Mapping):
        return tree
    keys, values = dict(tree.keys), dict(tree.values)
    for name in IGNORED:
        keys.pop(name, None)
        values.pop(name, None)
    return Mapping(tree.location, keys, values)


def _plain_number(value: float) -> float:
    """Return a whole number as an int, which hyperparameters of both kinds take."""
    return int(value) if float(value).is_integer() else value


def _anchor_findings(train: TrainSpec, model: str) -> Iterator[Finding]:
    """Yield the problems of hyperparameters that ask for a number of anchors."""
    is_override = "anchors" in train.hyp_overrides
    if model and not has_anchors(model):
        field = "train.hyp_overrides.anchors" if is_override else "train.hyp"
        message = f"asks for anchors, and {model} has none"
        yield Finding(field, message, "no anchors, or a model that has some", ("model",))
    if not train.autoanchor:
        message = "is off, and the hyperparameters ask for anchors that are still to be found"
        yield Finding("train.autoanchor", message, "true")


def _override_findings(name: str, value: float, kinds: dict[str, Any]) -> Iterator[Finding]:
    field = f"train.hyp_overrides.{name}"
    if name not in kinds:
        near = difflib.get_close_matches(name, list(kinds), n=1)
        yield Finding(field, "unknown hyperparameter", f"{near[0]} is the nearest" if near else ", ".join(kinds))
        return
    try:
        msgspec.convert(_plain_number(value), kinds[name])
    except msgspec.ValidationError:
        yield Finding(field, f"{value:g} is not allowed", describe(kinds[name]))
