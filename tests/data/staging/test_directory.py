"""Private directories, locks and the removal of staged copies."""

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.staging import directory as staging_directory
from hpc_yolo.data.staging.directory import StagedCopy, private_directory, remove_unused, staged_copies
from hpc_yolo.data.staging.plan import StagePlan, plan_copy

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another user")
HOLD = """
import sys
from pathlib import Path
from hpc_yolo.data.staging.directory import CopyLock
lock = CopyLock(Path(sys.argv[1]))
print(getattr(lock, sys.argv[2])(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A private directory for copies."""
    return private_directory(tmp_path)


def made(parent: Path, digest: str, unused_s: float = 0.0) -> StagedCopy:
    """Return a complete copy of no files that was used `unused_s` ago."""
    copy = StagedCopy(parent, digest)
    copy.lock().close()
    copy.start()
    copy.complete(StagePlan((), digest), "/data")
    time = copy.lock_path.stat().st_mtime - unused_s
    os.utime(copy.lock_path, (time, time))
    return copy


@contextlib.contextmanager
def held(copy: StagedCopy, kind: str) -> Iterator[None]:
    """Let another process hold the lock of `copy`."""
    command = [sys.executable, "-c", HOLD, str(copy.lock_path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield
        process.communicate()


def test_private_directory_belongs_to_user_alone(tmp_path):
    path = private_directory(tmp_path / "new")
    assert path == tmp_path / "new" / f"hpc-yolo-{os.getuid()}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o755)
    assert stat.S_IMODE(private_directory(tmp_path / "new").stat().st_mode) == 0o700


def link(path: Path) -> None:
    (path.parent / "other").mkdir()
    path.symlink_to(path.parent / "other")


def foreign(path: Path) -> None:
    path.mkdir()
    os.chown(path, 12345, 12345)


def file(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (link, "is not a directory"),
        (file, "is not a directory"),
        pytest.param(foreign, "belongs to user 12345", marks=AS_ROOT),
    ],
)
def test_foreign_private_directory_is_refused(prepare, message, tmp_path):
    prepare(tmp_path / f"hpc-yolo-{os.getuid()}")
    with pytest.raises(DataError, match=message):
        private_directory(tmp_path)


@pytest.mark.parametrize(("mode", "is_accepted"), [(0o1777, True), (0o777, False), (0o700, True)])
def test_directory_in_which_everybody_may_replace_files_is_refused(mode, is_accepted, tmp_path):
    tmp_path.chmod(mode)
    with contextlib.nullcontext() if is_accepted else pytest.raises(DataError, match="everybody may replace"):
        private_directory(tmp_path)


def test_directory_without_parent_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no directory"):
        private_directory(tmp_path / "no" / "such")


@pytest.mark.parametrize(
    ("unused_s", "min_unused_s", "is_removed"),
    [(4 * 86400, 3 * 86400, True), (2 * 86400, 3 * 86400, False), (60, 0, True)],
)
def test_unused_copy_is_removed_by_age(unused_s, min_unused_s, is_removed, parent):
    copy = made(parent, "abc", unused_s)
    (copy.files / "data").mkdir()
    (copy.files / "data" / "1.jpg").touch()
    removed = remove_unused(parent, min_unused_s=min_unused_s)
    assert [one.digest for one in removed] == (["abc"] if is_removed else [])
    assert copy.path.exists() is copy.lock_path.exists() is not is_removed


def test_old_copy_without_its_lock_file_is_removed(parent):
    old, new = made(parent, "old"), made(parent, "new")
    for copy in (old, new):
        copy.lock_path.unlink()
    os.utime(old.path, (0, 0))
    assert [copy.digest for copy in remove_unused(parent)] == ["old"]
    assert [path.name for path in parent.iterdir()] == ["new"]


@pytest.mark.parametrize("kind", ["try_shared", "try_exclusive"])
def test_copy_that_a_process_uses_is_not_removed(kind, parent):
    copy = made(parent, "abc", 10 * 86400)
    with held(copy, kind):
        assert remove_unused(parent) == []
    assert [one.digest for one in remove_unused(parent)] == ["abc"]


def test_kept_copy_is_not_removed(parent):
    made(parent, "abc", 100)
    made(parent, "def", 200)
    assert [copy.digest for copy in staged_copies(parent)] == ["def", "abc"]
    assert [copy.digest for copy in remove_unused(parent, keep="def", min_unused_s=0)] == ["abc"]


@pytest.mark.parametrize(
    ("theirs", "mine", "is_mine"),
    [
        ("try_shared", "try_shared", True),
        ("try_shared", "try_exclusive", False),
        ("try_exclusive", "try_shared", False),
        ("try_exclusive", "try_exclusive", False),
    ],
)
def test_lock_between_processes(theirs, mine, is_mine, parent):
    copy = made(parent, "abc")
    lock = copy.lock()
    with held(copy, theirs):
        assert getattr(lock, mine)() is is_mine
    lock.close()


def test_lock_of_removed_copy_is_not_taken(parent):
    copy = made(parent, "abc")
    early = copy.lock()
    remove_unused(parent, min_unused_s=0)
    assert not early.try_exclusive()  # nobody else would see it
    made(parent, "abc")
    assert not early.try_shared()
    early.close()


def test_copy_of_an_earlier_boot_is_not_used(parent, tmp_path, monkeypatch):
    copy = made(parent, "abc")
    (copy.files / "1.jpg").touch()
    assert copy.record is not None
    other = tmp_path / "boot_id"
    other.write_text("another boot\n")
    monkeypatch.setattr(staging_directory, "BOOT_ID", other)
    assert copy.record is None
    copy.start()
    assert list(copy.files.iterdir()) == []


def test_record_of_another_form_is_no_record(parent):
    copy = made(parent, "abc")
    (copy.path / "complete.json").write_text("{}")
    assert copy.record is None


def test_record_names_source_and_size(parent, tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"123")
    plan = plan_copy([str(tmp_path / "1.jpg")])
    copy = StagedCopy(parent, plan.digest)
    copy.start()
    copy.complete(plan, "/data/coco")
    assert copy.record is not None
    assert (copy.record.source, copy.record.num_files, copy.record.total_bytes) == ("/data/coco", 1, 3)


@pytest.mark.parametrize(("content", "done_bytes"), [(None, 0), (b"", 0), (b"12   ", 12), (b"x", 0)])
def test_progress_of_another_process_is_read(content, done_bytes, parent):
    copy = made(parent, "abc")
    if content is not None:
        (copy.path / "progress").write_bytes(content)
    assert copy.read_progress() == done_bytes
    copy.write_progress(345)
    assert copy.read_progress() == 345
