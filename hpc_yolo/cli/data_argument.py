"""The argument DATA: a dataset YAML, the name of a shipped one, or a spec, whose dataset is meant."""

from __future__ import annotations

from pathlib import Path

import yaml

from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.package_data import shipped_dataset
from hpc_yolo.data.dataset_source import DatasetSource, source_of
from hpc_yolo.spec.load import load_spec
from hpc_yolo.spec.schema import Spec

MAX_SPEC_BYTES = 1 << 20


def find_dataset(written: str) -> tuple[DatasetSource, Spec | None]:
    """Return (the dataset that `written` names, the spec if it is one).

    Raises:
        SpecError: `written` is a spec with problems.
    """
    path = Path(written)
    if not path.exists():
        return shipped_dataset(written) or path, None
    if not _is_spec(path):
        return path, None
    spec = load_spec(path, (), site_lookup())
    return source_of(spec.data), spec


def _is_spec(path: Path) -> bool:
    """Return True if `path` is YAML with the section data, which a dataset YAML lacks, and without names."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_SPEC_BYTES:  # such as an archive of a dataset
            return False
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "data" in content and "names" not in content
