"""A dataset with three splits, and its packed set."""

from pathlib import Path

import pytest
from packed_sets import pack, write_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The dataset YAML of a set with three splits."""
    return write_source(tmp_path / "set")


@pytest.fixture
def packed(source: Path, tmp_path: Path) -> Path:
    """The packed set of `source`, in shards of two or three images."""
    pack(source, tmp_path / "packed")
    return tmp_path / "packed"
