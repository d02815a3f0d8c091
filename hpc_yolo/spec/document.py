"""docs/spec.md, made from the schema: `python -m hpc_yolo.spec.document > docs/spec.md`."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

import msgspec

from hpc_yolo.spec.convert import describe, field_types
from hpc_yolo.spec.schema import CheckpointSpec, ClusterSpec, Hyperparameters, Section, Spec, TrainSpec

HEAD = """# The spec, field by field

Made from `hpc_yolo/spec/schema.py` by `python -m hpc_yolo.spec.document`; a test holds the two equal.
Only `name`, `model` and `data` are required. `hpc-yolo check spec.yaml` says all that is wrong with a spec,
`hpc-yolo schema` prints a JSON schema for editors, and `--set FIELD=VALUE` sets any field on the command line.
"""


def document() -> str:
    """The whole page, as Markdown."""
    sections: list[tuple[str, type[Section]]] = [
        ("The run", Spec),
        ("cluster", ClusterSpec),
        ("train", TrainSpec),
        ("checkpoint", CheckpointSpec),
        ("Hyperparameters (`train.hyp`, `train.hyp_overrides`)", Hyperparameters),
    ]
    return "\n".join([HEAD, *(_table(title, section) for title, section in sections)])


def _table(title: str, section: type[Section]) -> str:
    rows = [f"## {title}\n", "| field | default | may hold | meaning |", "| --- | --- | --- | --- |"]
    kinds = field_types(section)
    for field in msgspec.structs.fields(section):
        kind = kinds[field.name]
        allowed = describe(kind).replace("|", "\\|")
        rows.append(f"| `{field.name}` | {_default(field)} | {allowed} | {_sentence(kind)} |")
    return "\n".join(rows) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "**required**"
    value = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    if isinstance(value, Section):
        return "see below"
    words = {None: "null", True: "true", False: "false", "": "''"}
    return f"`{words[value] if isinstance(value, (bool, type(None), str)) and value in words else value}`"


def _sentence(kind: Any) -> str:
    while get_origin(kind) is Annotated:
        for meta in kind.__metadata__:
            if meta.description:
                return str(meta.description)
        kind = get_args(kind)[0]
    raise TypeError(f"a field of type {kind} has no description")


if __name__ == "__main__":
    print(document(), end="")
