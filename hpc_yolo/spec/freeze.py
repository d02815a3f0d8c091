"""Check of `train.freeze` against the layers of the model."""

from __future__ import annotations

from pathlib import Path

import yaml

from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.package_data import resource_directory

FREEZE_HINT = "--freeze 10 freezes the backbone of yolov5"


def freeze_problem(freeze: int | list[int], num_layers: int) -> str | None:
    """Return the problem of `freeze` for a model of `num_layers` layers, or None."""
    has = f"the model has {num_layers} layers, 0 to {num_layers - 1}"
    if isinstance(freeze, int):
        if freeze > num_layers:
            return f"the first {freeze} layers are to be frozen, and {has}"
        return f"no trainable layer is left: {has}" if freeze == num_layers else None
    missing = sorted(index for index in set(freeze) if index >= num_layers)
    if missing:
        return f"there is no layer {', '.join(map(str, missing))}: {has}"
    return f"no trainable layer is left: {has}" if len(set(freeze)) == num_layers else None


def require_trainable_layers(model: str, freeze: int | list[int]) -> None:
    """Check that `model` has the layers of train.freeze, and at least one that is not frozen.

    Raises:
        SpecError: it does not.
    """
    layers_file = Path(model) if Path(model).suffix else resource_directory("configs") / "models" / f"{model}.yaml"
    if not freeze or not layers_file.is_file():
        return
    layers = yaml.safe_load(layers_file.read_text(encoding="utf-8"))
    if problem := freeze_problem(freeze, len(layers["backbone"]) + len(layers["head"])):
        raise SpecError(f"train.freeze: {problem} ({model})", hint=FREEZE_HINT)
