"""The recipe's numbers: a file from configs/hyp or one's own, with single values on top."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hpc_yolo.errors import SpecError
from hpc_yolo.resources import resource_folder
from hpc_yolo.spec.parse import parse_yaml
from hpc_yolo.spec.problems import Place, Problem, format_problems
from hpc_yolo.spec.read import SectionReader, describe, field_types
from hpc_yolo.spec.schema import Hyperparameters, TrainSpec


def load_hyperparameters(train: TrainSpec) -> Hyperparameters:
    """The numbers that `train.hyp` and `train.hyp_overrides` say.

    Raises:
        SpecError: the file is missing or wrong.
    """
    path = hyperparameter_file(train.hyp, Path())
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"train.hyp: {path} cannot be read: {error.strerror}") from error
    hyp, problems = read_hyperparameters(text, path)
    if problems:
        raise SpecError(format_problems(problems))
    return msgspec.structs.replace(hyp, **train.hyp_overrides)


def read_hyperparameters(text: str, path: Path) -> tuple[Hyperparameters, list[Problem]]:
    """(the numbers in a hyperparameter file, what is wrong with it)."""
    reader = SectionReader({})
    tree = parse_yaml(text, str(path), reader.problems)
    return reader.read(tree, Hyperparameters, "", Place(str(path), 1, 1)), reader.problems


def hyperparameter_findings(train: TrainSpec, folder: Path) -> Iterator[tuple[str, str, str]]:
    """(field, message, what is allowed) of everything wrong with hyp and hyp_overrides."""
    path = hyperparameter_file(train.hyp, folder)
    if not path.is_file():
        yield "train.hyp", f"there is no {train.hyp!r}", f"{', '.join(hyperparameter_names())}, or a file"
    else:
        for problem in read_hyperparameters(path.read_text(encoding="utf-8", errors="replace"), path)[1]:
            place = f"{problem.place.source}:{problem.place.line}:{problem.place.column}"
            yield "train.hyp", f"{place}: {problem.path}: {problem.message}", problem.allowed
    kinds = field_types(Hyperparameters)
    for name, value in train.hyp_overrides.items():
        yield from _override_findings(name, value, kinds)


def hyperparameter_names() -> list[str]:
    """The sets that come with the package."""
    return sorted(path.stem for path in (resource_folder("configs") / "hyp").glob("*.yaml"))


def hyperparameter_file(name: str, folder: Path) -> Path:
    """Where the set `name` is: one of the package's, else a file beside the spec or in the working directory."""
    known = resource_folder("configs") / "hyp" / f"{name}.yaml"
    if known.is_file():
        return known
    beside = folder / name
    return beside if beside.is_file() else Path(name)


def _override_findings(name: str, value: float, kinds: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    field = f"train.hyp_overrides.{name}"
    if name not in kinds:
        near = difflib.get_close_matches(name, list(kinds), n=1)
        yield field, "unknown hyperparameter", f"{near[0]} is the nearest" if near else ", ".join(kinds)
        return
    try:
        msgspec.convert(value, kinds[name])
    except msgspec.ValidationError:
        yield field, f"{value:g} is not allowed", describe(kinds[name])
