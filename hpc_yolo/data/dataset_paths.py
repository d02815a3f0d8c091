"""Paths of a dataset with variables: expanded on the machine that reads them, and kept as written in copies.

A dataset may exist on the nodes only, below a directory that differs from job to job (`path: $SLURM_TMPDIR/coco`).
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import DataError
from hpc_yolo.core.package_data import YAML_SUFFIXES
from hpc_yolo.core.variables import UnsetVariable, expanded, variables_in
from hpc_yolo.data.archives.archive import open_archive
from hpc_yolo.data.archives.dataset_yaml import dataset_yaml_in
from hpc_yolo.spec.paths import has_variables

DATASET_FILE = "dataset.yaml"
SAME_EVERYWHERE = frozenset({"HOME", "USER", "LOGNAME"})


def path_here(written: str | Path) -> Path:
    """Return the path that `written` is on this machine.

    Raises:
        DataError: a variable in it is not set.
    """
    text = str(written)
    if not has_variables(text):
        return Path(os.path.expanduser(text))  # noqa: PTH111, an unknown user is not an error
    try:
        return Path(expanded(text, current_environment()))
    except UnsetVariable as unset:
        raise DataError(
            f"data: {text}: the variable {unset.name} is not set on {platform.node()}",
            hint="set it in cluster.setup or cluster.env, or write the path; the site's guide names its variables",
        ) from None


def dataset_file(written: str | Path) -> Path:
    """Return the dataset YAML that `written` means, as it is written: that in a directory or in an archive.

    Raises:
        DataError: a variable in it is not set, or an archive is refused.
    """
    path = path_here(written)
    if (path / DATASET_FILE).is_file():
        return Path(written) / DATASET_FILE
    if path.suffix in YAML_SUFFIXES or not path.is_file():
        return Path(written)
    try:
        archive = open_archive(path)
        return Path(written) if archive is None else Path(written) / dataset_yaml_in(archive)
    except OSError as error:
        raise DataError(f"data: {path} cannot be read: {error.strerror}") from error


def entries_of(written: object) -> list[Any]:
    """Return the entries of a split, which is one path or a list of paths."""
    return written if isinstance(written, list) else [written] if written else []


def differs_between_nodes(written: object) -> bool:
    """Return True if `written` has variables whose value may differ from node to node."""
    path = str(written)
    return has_variables(path) and not SAME_EVERYWHERE.issuperset(variables_in(path))


def copied_root(written: str | Path, source: Path, root: Path) -> str:
    """Return the `root` of the dataset YAML `written`, which is `source` here, for a copy that any node reads.

    A root below the directory of the YAML is written with the variables of that directory.
    """
    if differs_between_nodes(written) and root.is_relative_to(source.parent):
        return str(Path(written).parent / root.relative_to(source.parent))
    return str(root)
