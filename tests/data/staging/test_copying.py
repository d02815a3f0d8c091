"""Copies of files: whole ones, the rest of others, and files that change meanwhile."""

import errno
import os
from pathlib import Path

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.staging import copying
from hpc_yolo.data.staging.copying import CopyProgress, StopCopying, copy_files, missing_files
from hpc_yolo.data.staging.directory import StagedCopy, private_directory
from hpc_yolo.data.staging.plan import StagedFile, StagePlan, plan_copy

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(copying, "CHUNK_BYTES", 1000)


@pytest.fixture
def plan(tmp_path) -> StagePlan:
    """A large file and many small ones in two directories."""
    contents = {"a/large": CONTENT} | {f"b/c/{number}": b"x" * number for number in range(20)}
    for name, content in contents.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    return plan_copy(str(path) for path in (tmp_path / "set").rglob("*") if path.is_file())


@pytest.fixture
def copy(tmp_path, plan) -> StagedCopy:
    (tmp_path / "stage").mkdir()
    copy = StagedCopy(private_directory(tmp_path / "stage"), plan.digest)
    copy.start()
    return copy


def large(plan: StagePlan) -> StagedFile:
    return next(file for file in plan.files if file.path.endswith("large"))


def test_all_files_are_copied_at_their_paths(plan, copy):
    progress = CopyProgress()
    copy_files(plan.files, copy, progress)
    for file in plan.files:
        assert Path(copy.file(file.path)).read_bytes() == Path(file.path).read_bytes()
    assert list(missing_files(plan, copy)) == []
    assert progress.done_bytes == progress.copied_bytes == plan.total_bytes
    assert Path(copy.file(large(plan).path)).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("there", "has_bytes", "kept"),
    [
        (b"", 0, b""),
        (b"?" * 1500, 1500, b"?" * 1500),  # these bytes show that they are not copied again
        (b"?" * len(CONTENT), None, b"?" * len(CONTENT)),
        (b"?" * (len(CONTENT) + 1), 0, b""),
    ],
)
def test_rest_of_a_file_is_copied(there, has_bytes, kept, plan, copy):
    file = large(plan)
    copy_files([one for one in plan.files if one != file], copy, CopyProgress())
    target = Path(copy.file(file.path))
    target.parent.mkdir(parents=True)
    target.write_bytes(there)
    missing = list(missing_files(plan, copy))
    assert missing == ([] if has_bytes is None else [(file, has_bytes)])
    progress = CopyProgress()
    copy_files([one for one, _ in missing], copy, progress)
    assert target.read_bytes() == kept + CONTENT[len(kept) :]
    assert progress.copied_bytes == len(CONTENT) - len(kept)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!"])
def test_file_that_changes_size_is_refused(content, plan, copy):
    Path(large(plan).path).write_bytes(content)
    with pytest.raises(DataError, match=rf"had {len(CONTENT)} bytes when it was listed, and {len(content)} when"):
        copy_files(plan.files, copy, CopyProgress())


def test_file_system_without_sendfile(plan, copy, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    copy_files(plan.files, copy, CopyProgress())
    assert list(missing_files(plan, copy)) == []
    assert Path(copy.file(large(plan).path)).read_bytes() == CONTENT


def test_unreadable_file_is_named_and_ends_all_threads(plan, copy, tmp_path):
    """Reading the memory of a process at its beginning is an error of input and output, as a bad disk gives it."""
    bad = tmp_path / "bad.jpg"
    bad.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match=r"Input/output error.*bad\.jpg"):
        copy_files([StagedFile(str(bad), 100), *plan.files], copy, CopyProgress())


def test_copy_stops_at_the_next_chunk(plan, copy):
    progress = CopyProgress()
    progress.is_stopped.set()
    with pytest.raises(StopCopying):
        copy_files(plan.files, copy, progress)
    assert progress.copied_bytes == 0
    assert len(list(missing_files(plan, copy))) > 0
