"""Files of caches: shared by processes that are no relatives, and gone with the last of them."""

import os
import signal
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from image_sets import index_of

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import cache_files
from hpc_yolo.data.cache_files import (
    FileOfProcess,
    decoded_digest,
    disk_cache,
    disk_directory,
    file_of,
    free_on_disk,
    new_memory_cache,
    opened_cache,
)
from hpc_yolo.data.decoded import plan_slots
from hpc_yolo.data.staging.directory import StagedCopy, private_directory

SHAPES = np.array([(64, 64), (32, 64)], dtype=np.int32)
PLAN = plan_slots(SHAPES, 64)
PIXELS = [np.full((*shape, 3), image + 5, dtype=np.uint8) for image, shape in enumerate(SHAPES)]
OTHER_RANK = """
import sys, numpy as np
from hpc_yolo.data.cache_files import FileOfProcess, opened_cache
from hpc_yolo.data.decoded import plan_slots
plan = plan_slots(np.array([(64, 64), (32, 64)], dtype=np.int32), 64)
cache = opened_cache(FileOfProcess(*map(int, sys.argv[1:])), plan)
assert (cache.get(0) == 5).all() and cache.get(1) is None
cache.put(1, np.full((32, 64, 3), 6, dtype=np.uint8))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["memfd", "file in /dev/shm"])
def kind(request, monkeypatch):
    """Systems with an old C library have no memfd_create."""
    if request.param != "memfd":
        monkeypatch.delattr(os, "memfd_create")


@pytest.mark.usefixtures("kind")
def test_another_process_reads_and_writes_the_cache_and_leaves_nothing_when_killed():
    before = set(Path("/dev/shm").iterdir())
    cache = new_memory_cache(PLAN)
    cache.put(0, PIXELS[0])
    assert os.fstat(cache.descriptor).st_nlink == 0, "it has a name, which would outlive its processes"
    command = [sys.executable, "-c", OTHER_RANK, *map(str, astuple(file_of(cache)))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "written\n"
        other.send_signal(signal.SIGKILL)
    assert np.array_equal(cache.get(1), PIXELS[1])
    assert set(Path("/dev/shm").iterdir()) <= before


def test_descriptor_is_closed_with_the_cache():
    cache = new_memory_cache(PLAN)
    descriptors = set(Path("/proc/self/fd").iterdir())
    again = opened_cache(file_of(cache), PLAN)
    del again
    assert set(Path("/proc/self/fd").iterdir()) <= descriptors


def test_another_file_of_that_number_is_refused(tmp_path: Path):
    """Tasks in containers may have process numbers of their own, so that another process has the number."""
    cache = new_memory_cache(PLAN)
    with (tmp_path / "file").open("w+b") as other:
        for descriptor, inode in ((other.fileno(), 1), (other.fileno(), os.fstat(other.fileno()).st_ino)):
            with pytest.raises(FileNotFoundError):
                opened_cache(FileOfProcess(os.getpid(), descriptor, inode), PLAN)
        with pytest.raises(FileNotFoundError):
            opened_cache(FileOfProcess(2**22 + 1, cache.descriptor, file_of(cache).inode), PLAN)
        (tmp_path / "file").unlink()


WRITER = """
import sys, time, numpy as np
from pathlib import Path
from hpc_yolo.data.cache_files import disk_cache
from hpc_yolo.data.decoded import plan_slots
plan = plan_slots(np.array([(64, 64), (32, 64)], dtype=np.int32), 64)
cache = disk_cache(Path(sys.argv[1]), "abc", plan)
cache.put(1, np.full((32, 64, 3), 6, dtype=np.uint8))
print("written", flush=True)
sys.stdin.read()
"""


def test_cache_on_disk_is_found_by_the_next_attempt_and_shared_by_jobs(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout.readline() == "written\n"
        together = disk_cache(tmp_path, "abc", PLAN)
        killed.send_signal(signal.SIGKILL)
    assert np.array_equal(together.get(1), PIXELS[1]) and together.get(0) is None
    together.put(0, PIXELS[0])
    del together
    assert disk_cache(tmp_path, "abc", PLAN).num_written == 2
    assert disk_cache(tmp_path, "def", PLAN).num_written == 0, "of other images"


def test_cache_on_disk_of_an_earlier_boot_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its flags may have reached the disk without the pixels."""
    disk_cache(tmp_path, "abc", PLAN).put(0, PIXELS[0])
    monkeypatch.setattr("hpc_yolo.data.staging.directory.boot_id", lambda: "another")
    assert disk_cache(tmp_path, "abc", PLAN).num_written == 0


@pytest.mark.parametrize("size", [0, 1, PLAN.total_bytes - 1, PLAN.total_bytes + 1])
def test_cache_on_disk_of_another_size_is_empty(tmp_path: Path, size: int):
    """Its flags are at the start, so that images that were cut off would count as written."""
    disk_cache(tmp_path, "abc", PLAN).put(0, PIXELS[0])
    os.truncate(StagedCopy(private_directory(tmp_path), "abc").decoded, size)
    assert disk_cache(tmp_path, "abc", PLAN).get(0) is None


@pytest.mark.parametrize("is_removed", [False, True])
def test_cache_that_another_job_makes_or_removes_is_waited_for(
    tmp_path: Path, is_removed: bool, monkeypatch: pytest.MonkeyPatch
):
    copy = StagedCopy(private_directory(tmp_path), "abc")
    lock = copy.lock()
    assert lock.try_exclusive()

    def end_other_job(_pause_s: float) -> None:
        if is_removed:
            copy.remove()
        lock.close()

    monkeypatch.setattr("hpc_yolo.data.cache_files.time.sleep", end_other_job)
    cache = disk_cache(tmp_path, "abc", PLAN)
    cache.put(0, PIXELS[0])
    assert cache.num_written == 1


def test_cache_that_another_job_keeps_locked_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lock = StagedCopy(private_directory(tmp_path), "abc").lock()
    assert lock.try_exclusive()
    monkeypatch.setattr(cache_files, "LOCK_TIMEOUT_S", 0.0)
    with pytest.raises(BlockingIOError, match="is being made or removed"):
        disk_cache(tmp_path, "abc", PLAN)
    lock.close()


def test_unused_cache_on_disk_is_removed_and_a_used_one_stays(tmp_path: Path):
    used, unused = disk_cache(tmp_path, "used", PLAN), disk_cache(tmp_path, "unused", PLAN)
    del unused
    (parent,) = tmp_path.iterdir()
    for lock in parent.glob("*.lock"):
        os.utime(lock, (0, 0))
    disk_cache(tmp_path, "new", PLAN)
    assert sorted(path.name for path in parent.iterdir() if path.is_dir()) == ["new", "used"]
    assert used.num_written == 0


def test_room_for_a_cache_on_disk_counts_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk_cache(tmp_path, "abc", PLAN).put(0, PIXELS[0])
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 9, 9, 1, 0, 0, 0, 0, 255)))
    assert free_on_disk(tmp_path, ["def"]) == 4096
    assert free_on_disk(tmp_path, ["abc", "def"]) > 4096 + PIXELS[0].nbytes


def test_directory_on_a_local_disk_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    memory, shared, disk = tmp_path / "memory", tmp_path / "shared", tmp_path / "disk"
    for path in (memory, shared, disk):
        path.mkdir()
    monkeypatch.setattr(cache_files, "is_local", lambda path: path != shared)
    monkeypatch.setattr(cache_files, "is_in_memory", lambda path: path == memory)
    variables = {"SLURM_TMPDIR": str(memory), "LOCAL_SCRATCH": str(shared), "TMPDIR": str(disk)}
    assert disk_directory(variables) == disk
    assert disk_directory({}) == Path("/tmp")
    monkeypatch.setattr(cache_files, "is_local", lambda _: False)
    with pytest.raises(DataError, match=r"none of \$SLURM_TMPDIR, .* is on a local disk"):
        disk_directory(variables)


def test_digest_changes_with_images_size_and_use():
    index = index_of(["/a.jpg"], [(64, 64)], [[]])
    known = replace(index, digest="1")
    digests = [
        decoded_digest(known, 64, augment=True),
        decoded_digest(known, 64, augment=False),
        decoded_digest(known, 32, augment=True),
        decoded_digest(replace(index, digest="2"), 64, augment=True),
    ]
    assert len(set(digests)) == 4
    assert digests[0] == decoded_digest(known, 64, augment=True)
    assert decoded_digest(index, 64, augment=True) != decoded_digest(index, 64, augment=True), "files without a digest"
