"""The files that are shipped with the package: configs/ and slurm/."""

from __future__ import annotations

from pathlib import Path

import hpc_yolo

YAML_SUFFIXES = (".yaml", ".yml")
DATA_PARENTS = (Path(), Path("data"), Path("configs/data"))


def resource_directory(name: str) -> Path:
    """Return the directory `name` in the installed package, or at the top of the repository."""
    package = Path(hpc_yolo.__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def dataset_names() -> list[str]:
    """Return the names of the shipped dataset YAMLs, without their suffix."""
    return sorted(path.stem for path in (resource_directory("configs") / "data").glob("*.yaml"))


def shipped_dataset(written: str) -> Path | None:
    """Return the shipped dataset YAML that `written` names: coco, coco.yaml or, as in the guide, data/coco.yaml.

    Return None where no shipped dataset has that name, or `written` is a path of another form.
    """
    path = Path(written)
    if path.stem not in dataset_names() or path.suffix not in ("", *YAML_SUFFIXES) or path.parent not in DATA_PARENTS:
        return None
    return resource_directory("configs") / "data" / f"{path.stem}.yaml"
