"""The dataset YAML in an archive."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import yaml

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.package_data import YAML_SUFFIXES
from hpc_yolo.data.archives.archive import Archive

MAX_YAML_BYTES = 1 << 20


def dataset_yaml_in(archive: Archive) -> str:
    """Return the name of the dataset YAML in `archive`: of those with train and val the one nearest to the top.

    Raises:
        OSError: one cannot be read.
        DataError: there is none, or two are equally near.
    """
    names = [os.fsdecode(name) for name in archive.table.below(b"") if _may_be_yaml(name)]
    found = [name for name in names if _is_dataset(archive, name)]
    nearest = min((name.count("/") for name in found), default=0)
    found = [name for name in found if name.count("/") == nearest]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{archive.path}: has the dataset YAMLs {', '.join(found)}", hint=f"name one: {archive.path}/{found[0]}"
        )
    seen = f"; it has {', '.join(names[:3])}" if names else ""
    raise DataError(
        f"{archive.path}: has no dataset YAML with train and val{seen}",
        hint=f"write one beside it with path: {archive.path.name} and the splits in it, and use that",
    )


def _may_be_yaml(name: bytes) -> bool:
    path = PurePosixPath(os.fsdecode(name))
    return path.suffix.lower() in YAML_SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _is_dataset(archive: Archive, name: str) -> bool:
    if archive.find(name).size > MAX_YAML_BYTES:
        return False
    try:
        content = yaml.load(archive.read(name), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and all(map(content.get, ("train", "val")))
