"""Whether a model has the layers that `train.freeze` names."""

from __future__ import annotations


def freeze_problem(freeze: int | list[int], num_layers: int) -> str | None:
    """Return what is wrong with `freeze` for a model of `num_layers` layers, or None."""
    has = f"the model has {num_layers} layers, 0 to {num_layers - 1}"
    if isinstance(freeze, int):
        if freeze > num_layers:
            return f"the first {freeze} layers are to be frozen, and {has}"
        return f"no layer is left to learn: {has}" if freeze == num_layers else None
    missing = sorted(index for index in set(freeze) if index >= num_layers)
    if missing:
        return f"there is no layer {', '.join(map(str, missing))}: {has}"
    return f"no layer is left to learn: {has}" if len(set(freeze)) == num_layers else None
