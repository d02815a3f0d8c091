"""The JSON schema of a spec, for editors."""

from __future__ import annotations

from typing import Any

import msgspec

from hpc_yolo.spec.schema import Spec


def json_schema() -> dict[str, Any]:
    """Draft 2020-12: every field with its sentence, range and default; unknown fields are refused."""
    schema = msgspec.json.schema(Spec)
    definitions = schema.pop("$defs")
    # Defaults of whole sections only repeat those of their fields.
    for name in ("cluster", "train", "checkpoint"):
        definitions["Spec"]["properties"][name].pop("default", None)
    return {
        **definitions.pop("Spec"),
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpc-yolo spec",
        "$defs": definitions,
    }
