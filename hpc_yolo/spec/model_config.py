"""Location and content of a model's config; `models/` interprets its layers. Needs no torch."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.package_data import resource_directory


def load_config(model: str | Path) -> dict[str, Any]:
    """Return the layers, multiples and anchors of `model` as in its file.

    Raises:
        SpecError: no such model, or not a file of fields.
    """
    path = model_path(model)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise not_a_config(str(path), error) from error
    if not isinstance(config, dict):
        raise not_a_config(str(path), TypeError("holds no fields"))
    return config


def has_anchors(model: str) -> bool:
    """Return whether the layers of `model` have anchors; True where they cannot be read."""
    try:
        return "anchors" in load_config(model)
    except SpecError:
        return True


def model_path(model: str | Path) -> Path:
    """Return where the config of `model` is.

    Raises:
        SpecError: neither a known name nor a file.
    """
    directory = resource_directory("configs") / "models"
    known = directory / f"{model}.yaml"
    if known.is_file():
        return known
    if Path(model).is_file():
        return Path(model)
    names = sorted(path.stem for path in directory.glob("*.yaml"))
    near = difflib.get_close_matches(str(model), names, n=1)
    raise SpecError(
        f"model: there is no model {str(model)!r}; there are {', '.join(names)}",
        hint=f"did you mean {near[0]}?" if near else "name one of them, or a YAML of layers",
    )


def not_a_config(source: str, error: Exception) -> SpecError:
    """Return the error for an invalid config; `source` names it."""
    reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    return SpecError(
        f"model: {source} is not a model config: {reason}",
        hint=f"see {resource_directory('configs') / 'models' / 'yolov5n.yaml'} for the form of the layers",
    )
