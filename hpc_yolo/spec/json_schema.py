"""The JSON schema of a spec, for editors."""

from __future__ import annotations

from typing import Any

import msgspec

from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.section import Section
from hpc_yolo.spec.short_forms import FIELD_OF


def json_schema(kind: type[Section] = Spec, title: str = "hpc-yolo spec") -> dict[str, Any]:
    """Draft 2020-12: every field with its sentence, range and default; unknown fields are refused.

    Args:
        kind: Spec, or Profile for a site profile.
        title: of the schema.
    """
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs")
    properties = definitions[kind.__name__]["properties"]
    # Defaults of whole sections only repeat those of their fields.
    for name in ("cluster", "train", "checkpoint"):
        properties.get(name, {}).pop("default", None)
    for name in FIELD_OF.keys() & properties.keys():
        section = properties[name]
        properties[name] = {"description": section.pop("description"), "anyOf": [{"type": "string"}, section]}
    return {
        **definitions.pop(kind.__name__),
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "$defs": definitions,
    }
