"""The fields that decide what a run learns: all that the schema does not mark as changeable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.fields import field_extra, field_types, section_type
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.section import CHANGES, Section


def learned_fields(spec: Spec) -> dict[str, Any]:
    """Return the values that may not differ between the attempts of a run, by dotted name."""
    return dict(_fixed_fields(msgspec.to_builtins(spec), Spec, ""))


def learned_digest(spec: Spec) -> str:
    """Return a short digest of `learned_fields`; a field at its default does not count, since versions may add some."""
    defaults = learned_fields(Spec(name="", data=DataSpec()))
    written = {field: value for field, value in learned_fields(spec).items() if value != defaults[field]}
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:16]


def _fixed_fields(values: dict[str, Any], section: type[Section], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, kind in field_types(section).items():
        if field_extra(kind, CHANGES) is not None:
            continue
        if (inner := section_type(kind)) is not None and values[name] is not None:
            yield from _fixed_fields(values[name], inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", values[name]
