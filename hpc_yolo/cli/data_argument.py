"""The argument DATA: a dataset YAML, the name of a shipped one, or a spec, whose dataset is meant."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.package_data import shipped_dataset
from hpc_yolo.spec.load import load_spec

if TYPE_CHECKING:
    from hpc_yolo.data.dataset import Dataset


def read_dataset(written: str, needed_splits: Collection[str]) -> Dataset:
    """Return the dataset that `written` names.

    Raises:
        DataError: it cannot be used, or a needed split is missing.
        SpecError: `written` is a spec with problems.
    """
    from hpc_yolo.data.dataset import load_dataset

    path = Path(written)
    if not path.exists():
        path = shipped_dataset(written) or path
    elif _is_spec(path):
        path = Path(load_spec(path, (), site_lookup()).data.path)
    return load_dataset(path, needed_splits=needed_splits)


def _is_spec(path: Path) -> bool:
    """Return True if `path` is YAML with the section data, which a dataset YAML lacks, and without names."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig")) if path.is_file() else None
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "data" in content and "names" not in content
