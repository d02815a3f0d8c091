"""The staging of one node: one copy for all of its processes, continued after a kill, none where there is no room."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stage_process
from waiting import wait_until

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.staging import node, room
from hpc_yolo.data.staging.directory import StagedCopy, private_directory, staged_copies
from hpc_yolo.data.staging.node import NodeStaging, StageRequest

MIB = 2**20
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system")


@pytest.fixture
def source(tmp_path) -> Path:
    """Eight files of 1.5 MiB and 50 small ones."""
    directory = tmp_path / "set"
    directory.mkdir()
    for number in range(8):
        (directory / f"large{number}").write_bytes(os.urandom(3 * MIB // 2))
    for number in range(50):
        (directory / f"small{number}").write_bytes(bytes([number]) * number)
    return directory


@pytest.fixture
def stage(tmp_path) -> Path:
    directory = tmp_path / "stage"
    directory.mkdir()
    return directory


def files_of(source: Path) -> list[str]:
    return [str(path) for path in source.iterdir()]


def staged(source: Path, stage: object, size_limit_bytes: int | None = None) -> NodeStaging:
    """Return the staging of `source` when it is over."""
    request = StageRequest(str(stage), size_limit_bytes, str(source), lambda: files_of(source))
    staging = NodeStaging(request, {"TMPDIR": str(stage)})
    staging.start()
    wait_until(lambda: staging.wait(0.05) or staging.result, "the staging is over")
    return staging


def assert_same_files(source: Path, files: str) -> None:
    for path in files_of(source):
        assert Path(files + path).read_bytes() == Path(path).read_bytes()


class Process:
    """A process that stages; see `stage_process`."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen

    def wait_for(self, state: str) -> dict[str, object]:
        """Return its first report of `state`."""
        assert self.popen.stdout is not None
        found = next(report for line in self.popen.stdout if (report := json.loads(line))["state"] == state)
        return dict(found)

    def go_on(self) -> None:
        """Let it go on where it has paused."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()


@pytest.fixture
def process(source, stage) -> Iterator[Callable[..., Process]]:
    """Start processes that stage `source`."""
    with contextlib.ExitStack() as held:

        def start(pause_bytes: int = 0) -> Process:
            command = [sys.executable, stage_process.__file__, source, stage, str(pause_bytes)]
            popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            held.enter_context(popen)
            held.callback(popen.kill)
            return Process(popen)

        yield start


def test_files_are_copied_and_used_again(source, stage):
    first = staged(source, stage)
    assert_same_files(source, first.result.files)
    assert first.progress.copied_bytes == first.progress.total_bytes
    first.close(is_over=True)
    again = staged(source, stage)
    assert (again.result, again.progress.copied_bytes) == (first.result, 0)
    assert again.progress.done_bytes == again.progress.total_bytes
    again.close(is_over=True)


def test_second_process_waits_and_uses_the_copy_of_the_first(process, source, stage):
    first = process(pause_bytes=4 * MIB)
    assert first.wait_for("paused")["copied_bytes"] >= 4 * MIB
    second = process()
    second.wait_for("started")
    wait_until(lambda: second.wait_for("waiting")["done_bytes"] >= 4 * MIB, "it sees the progress of the first")
    first.go_on()
    ends = [one.wait_for("over") for one in (first, second)]
    assert ends[0]["files"] == ends[1]["files"] != ""
    assert ends[0]["copied_bytes"] == ends[0]["total_bytes"] > 12 * MIB
    assert ends[1]["copied_bytes"] == 0
    assert ends[1]["done_bytes"] == ends[1]["total_bytes"]
    assert_same_files(source, str(ends[1]["files"]))


def test_killed_copy_is_continued_by_the_process_that_waits(process, source):
    first = process(pause_bytes=4 * MIB)
    first.wait_for("paused")
    second = process()
    second.wait_for("waiting")
    first.popen.kill()
    end = second.wait_for("over")
    assert 0 < end["copied_bytes"] <= end["total_bytes"] - 4 * MIB
    assert_same_files(source, end["files"])


def test_changed_dataset_gets_another_copy(source, stage):
    first = staged(source, stage)
    (source / "small1").write_bytes(b"2")
    second = staged(source, stage)
    assert first.result.files != second.result.files
    assert_same_files(source, second.result.files)
    for staging in (first, second):
        staging.close(is_over=True)
    assert len(staged_copies(private_directory(stage))) == 2


@pytest.mark.parametrize("is_used_by_another", [False, True])
def test_files_that_were_removed_are_copied_again_unless_the_copy_is_used(is_used_by_another, source, stage):
    first = staged(source, stage)
    copy = Path(f"{first.result.files}{source}/small7")
    copy.unlink()
    if not is_used_by_another:
        first.close(is_over=True)
    second = staged(source, stage)
    assert second.result == first.result
    assert copy.exists() is not is_used_by_another
    assert second.progress.copied_bytes == (0 if is_used_by_another else 7)
    for staging in (first, second):
        staging.close(is_over=True)


@pytest.mark.parametrize(
    ("in_memory", "is_over", "remains"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_copy_in_memory_is_removed_at_the_end(in_memory, is_over, remains, source, stage, monkeypatch):
    monkeypatch.setattr(node, "is_in_memory", lambda _path: in_memory)
    first, second = staged(source, stage), staged(source, stage)
    first.close(is_over=is_over)
    assert Path(second.result.files).exists()  # which the second uses
    second.close(is_over=is_over)
    assert Path(second.result.files).exists() is remains


def test_dataset_over_the_limit_is_not_copied(source, stage):
    staging = staged(source, stage, size_limit_bytes=12 * MIB)
    assert staging.result.why_not == "12 MiB are more than data.size_limit, 12 MiB"
    assert list(stage.iterdir()) == []


def test_dataset_of_the_limit_is_copied(source, stage):
    total_bytes = sum(Path(path).stat().st_size for path in files_of(source))
    staging = staged(source, stage, size_limit_bytes=total_bytes)
    assert staging.result.files
    staging.close(is_over=True)


def test_without_room_unused_copies_are_removed(source, stage, monkeypatch):
    parent = private_directory(stage)
    old = StagedCopy(parent, "old")
    old.lock().close()
    old.start()
    asked = []

    def has_room(directory: Path, needed_bytes: int, num_files: int) -> None:
        asked.append((needed_bytes, num_files))
        if old.path.exists():
            raise DataError("no room")

    monkeypatch.setattr(node, "require_room", has_room)
    staging = staged(source, stage)
    assert staging.result.files
    assert asked == [(staging.progress.total_bytes, 58)] * 2
    staging.close(is_over=True)


def test_without_room_there_is_no_copy(source, stage, monkeypatch):
    monkeypatch.setattr(room, "SPARE", 1e9)
    staging = staged(source, stage)
    assert "free, and" in staging.result.why_not
    assert staged_copies(private_directory(stage)) == []


@AS_ROOT
def test_full_disk_leaves_nothing(source, stage, monkeypatch):
    """The room is checked before, and somebody else fills the disk meanwhile."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", stage], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setattr(node, "require_room", lambda *_: None)
        staging = staged(source, stage)
        assert staging.result.files == ""
        assert staging.result.why_not.endswith(": No space left on device")
        assert staged_copies(private_directory(stage)) == []
        assert [path.name for path in private_directory(stage).iterdir()] == []
    finally:
        subprocess.run(["umount", stage], check=True)


def test_disk_error_leaves_nothing(source, stage):
    (source / "bad").symlink_to("/proc/self/mem")  # which cannot be read, as a file on a bad disk
    staging = staged(source, stage)
    assert staging.result.why_not == f"{source}/bad: Input/output error"
    assert staged_copies(private_directory(stage)) == []


@pytest.mark.parametrize(
    ("stage", "why_not"),
    [
        ("$NOPE", "the variable NOPE of $NOPE is not set on "),
        ("/no/such/directory", "there is no directory /no/such/directory"),
        ("/proc/1", "/proc/1/hpc-yolo-"),
    ],
)
def test_stage_that_cannot_be_used_is_named(stage, why_not, source):
    assert staged(source, stage).result.why_not.startswith(why_not)


def test_auto_takes_the_next_directory_that_can_be_used(source, stage, tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_yolo.data.staging.where.MEMORY", tmp_path)
    monkeypatch.setattr("hpc_yolo.data.staging.where.is_local", lambda _path: True)
    stage.chmod(0o777)
    staging = NodeStaging(StageRequest("auto", None, "", lambda: files_of(source)), {"TMPDIR": str(stage)})
    staging.start()
    wait_until(lambda: staging.wait(0.05) or staging.result, "the staging is over")
    assert staging.result.files.startswith(f"{tmp_path}/hpc-yolo-")
    staging.close(is_over=True)


def test_hanging_copy_is_given_up(source, stage, monkeypatch):
    staging = NodeStaging(StageRequest(str(stage), None, "", lambda: files_of(source)), {})
    is_free = threading.Event()
    monkeypatch.setattr(node, "copy_files", lambda *_: is_free.wait())
    staging.start()
    staging.give_up("nothing was copied for 600 s")
    assert staging.result.why_not == "nothing was copied for 600 s"
    is_free.set()
    wait_until(lambda: not staging._thread.is_alive(), "the thread ends")
    assert staging.result.why_not == "nothing was copied for 600 s"
    staging.close(is_over=True)


def test_mistake_in_the_thread_is_kept_for_the_main_thread(stage):
    def list_files() -> list[str]:
        raise ZeroDivisionError

    staging = NodeStaging(StageRequest(str(stage), None, "", list_files), {})
    staging.start()
    wait_until(lambda: staging.result, "the staging is over")
    assert isinstance(staging.error, ZeroDivisionError)
