"""Which fields may differ between the trials of a sweep, and which values they may have."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.fields import alternatives_of, describe, field_extra, field_types, section_type, unwrapped
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.section import CHANGES, WHERE_IT_RUNS
from hpc_yolo.spec.train import TrainSpec

VARIED = ("model", "weights")  # besides the dataset and the fields of train
OVERRIDES = "train.hyp_overrides"
_WHERE = (WHERE_IT_RUNS.extra or {})[CHANGES]


@cache
def varied_fields() -> dict[str, Any]:
    """Return dotted name -> annotated type of each field that may vary."""
    kinds = {name: field_types(Spec)[name] for name in VARIED} | {"data": field_types(DataSpec)["path"]}
    for name, kind in field_types(TrainSpec).items():
        if field_extra(kind, CHANGES) != _WHERE and f"train.{name}" != OVERRIDES:
            kinds[f"train.{name}"] = kind
    return kinds | {f"{OVERRIDES}.{name}": kind for name, kind in field_types(Hyperparameters).items()}


def takes_whole_numbers(name: str) -> bool:
    """Return True if the field `name` takes whole numbers and no others."""
    kinds = {unwrapped(kind) for kind in alternatives_of(varied_fields()[name])}
    return int in kinds and float not in kinds


def name_findings(path: str, name: str) -> Iterator[Finding]:
    """Yield the problem of varying the field `name`, as the field `path` of a spec asks; nothing if it may vary."""
    kinds = varied_fields()
    if name in kinds:
        return
    section = name.partition(".")[0]
    if _is_field(name):
        yield Finding(path, *_refusal(section, name))
        return
    short = {known.rpartition(".")[2]: known for known in kinds}
    last = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, kinds, n=1) or difflib.get_close_matches(last, short, n=1)
    allowed = f"{short.get(last) or short.get(near[0], near[0])} is the nearest" if near else "such as train.imgsz"
    yield Finding(path, f"there is no field {name}", allowed)


def value_findings(path: str, name: str, value: object) -> Iterator[Finding]:
    """Yield the problem of `value` as a value of the field `name`, which may vary."""
    kind = varied_fields()[name]
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        yield Finding(path, f"{shown} is not a value of {name}", describe(kind))


def _refusal(section: str, name: str) -> tuple[str, str]:
    """Return (message, what is allowed) for a field that exists and may not vary."""
    if name in ("train", OVERRIDES):
        return "is a group; its fields vary one by one", f"such as {OVERRIDES}.lr0"
    if section in ("name", "output", "output_mode"):
        return "may not vary: the sweep names the directories of its trials", "fields of train, model, data, weights"
    if section in ("cluster", "site", "validate_cluster"):
        message = "may not vary: all trials of a sweep make the same request"
        return message, "a sweep for each request"
    if section == "train":
        message = "may not vary: a run learns the same with any value, so that its trials would be the same run"
        return message, "one value in train"
    return "may not vary", "fields of train, model, data, weights"


def _is_field(name: str) -> bool:
    """Return True for a field or section of a spec."""
    kinds = field_types(Spec)
    *sections, last = name.split(".")
    for part in sections:
        section = section_type(kinds[part]) if part in kinds else None
        if section is None:
            return part in kinds and part in ("env", "sbatch", "srun", "sweep")
        kinds = field_types(section)
    return last in kinds
