"""Generate docs/spec.md from the schema: `python -m hpc_yolo.spec.document > docs/spec.md`."""

from __future__ import annotations

import msgspec

from hpc_yolo.spec.fields import (
    describe,
    description_of,
    field_extra,
    field_infos,
    field_types,
    item_section,
    section_type,
)
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.section import CHANGES, Section
from hpc_yolo.spec.sweep_search import Range

HEAD = """# The spec, field by field

Generated from the sections in `hpc_yolo/spec/` by `python -m hpc_yolo.spec.document`; a test holds the two equal.
Only `name`, `model` and `data` are required. `hpc-yolo check spec.yaml` prints all problems of a spec,
`hpc-yolo schema` prints a JSON schema for editors, and `--set FIELD=VALUE` sets any field on the command line.

When a run is submitted again, a *fixed* field must be as it was: it decides what the run learns. One that *may change*,
or that says only *where it runs*, may have another value in later attempts.
"""


def document() -> str:
    """Return the whole page as Markdown."""
    tables = [_table("The run", Spec, None), *_inner_tables(Spec, "", None)]
    tables.append(_table("sweep.search.space: a range", Range, "may change"))
    tables.append(_table("Hyperparameters (`train.hyp`, `train.hyp_overrides`)", Hyperparameters, None))
    return "\n".join([HEAD, *tables])


def _inner_tables(section: type[Section], prefix: str, changes: str | None) -> list[str]:
    """Return a table for each section inside `section`, and for those inside of them."""
    tables = []
    for field in field_infos(section):
        items = item_section(field.type)
        inner = section_type(field.type) or items
        if inner is not None and field_types(inner):
            title = f"{prefix}{field.encode_name}{'[…]' if items else ''}"
            mark = changes or field_extra(field.type, CHANGES)
            tables += [_table(title, inner, mark), *_inner_tables(inner, f"{title}.", mark)]
    return tables


def _table(title: str, section: type[Section], changes: str | None) -> str:
    """Return the table of one section; `changes` is the mark of the whole section in the schema."""
    rows = [
        f"## {title}\n",
        "| field | default | may hold | later attempts | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for field in field_infos(section):
        allowed = describe(field.type).replace("|", "\\|")
        mark = changes or field_extra(field.type, CHANGES) or ("see below" if section_type(field.type) else "fixed")
        rows.append(
            f"| `{field.encode_name}` | {_default(field)} | {allowed} | {mark} | {description_of(field.type)} |"
        )
    return "\n".join(rows) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "**required**"
    value = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    if isinstance(value, Section):
        return "see below"
    written = {None: "null", True: "true", False: "false", "": "''"}
    return f"`{written[value] if isinstance(value, (bool, type(None), str)) and value in written else value}`"


if __name__ == "__main__":
    print(document(), end="")
