"""Which fields of a spec say what a run learns: those may not differ between the starts of one run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from hpc_yolo.spec.schema import Spec

# What may differ between the submissions of one run: where it runs and how long, not what it learns.
CHANGEABLE = ("cluster", "checkpoint", "output", "output_mode")
CHANGEABLE_IN_TRAIN = (
    "epochs",
    "device",
    "workers",
    "tensorboard",
    "cache",
    "patience",
    "val_every",
    "save_period",
    "start_timeout_s",
    "stall_timeout_s",
)


def learned_fields(spec: Spec) -> dict[str, Any]:
    """The fields that say what is learned, as plain values; those of `train` under dotted names."""
    fields = {name: value for name, value in msgspec.to_builtins(spec).items() if name not in CHANGEABLE}
    train = fields.pop("train")
    return fields | {f"train.{name}": value for name, value in train.items() if name not in CHANGEABLE_IN_TRAIN}


def learned_digest(spec: Spec) -> str:
    """One short word for what `learned_fields` says. Fields at their defaults do not count: versions may add some."""
    defaults = learned_fields(Spec(name="", data=""))
    said = {field: value for field, value in learned_fields(spec).items() if value != defaults[field]}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
