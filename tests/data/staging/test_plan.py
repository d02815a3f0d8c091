"""The files that are staged, and their digest."""

import os
from pathlib import Path

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.staging.plan import StagedFile, plan_copy


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three files in two directories."""
    for name, content in {"a/1.jpg": b"1", "a/2.jpg": b"22", "b/1.jpg": b"333"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg")]


def test_plan_has_each_file_once_with_its_size(files, tmp_path):
    again = f"{tmp_path}/a/../a/2.jpg"
    plan = plan_copy([*reversed(files), files[0], again])
    assert plan.files == tuple(StagedFile(path, size) for size, path in enumerate(files, 1))
    assert plan.total_bytes == 6
    assert plan.digest == plan_copy(files).digest


def test_plan_counts_every_file(files):
    counted = []
    plan_copy(files, lambda: counted.append(1))
    assert len(counted) == 3


def rewrite(path: Path) -> None:
    path.write_bytes(b"4444")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def rename(path: Path) -> None:
    path.rename(path.with_name("other.jpg"))


@pytest.mark.parametrize("change", [rewrite, touch, rename])
def test_digest_changes_with(change, files, tmp_path):
    before = plan_copy(files).digest
    change(Path(files[0]))
    assert plan_copy(str(path) for path in tmp_path.rglob("*.jpg")).digest != before


def test_missing_file_is_refused(files):
    with pytest.raises(FileNotFoundError, match=r"3\.jpg"):
        plan_copy([*files, files[0].replace("1.jpg", "3.jpg")])


def test_two_files_with_one_path_in_copy_are_refused(files, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "a").mkdir()
    (tmp_path / "elsewhere" / "a" / "1.jpg").write_bytes(b"another one")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    with pytest.raises(DataError, match="are two files, and one in a copy"):
        plan_copy([*files, f"{tmp_path}/link/../a/1.jpg"])
