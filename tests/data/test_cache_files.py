"""Files of caches: shared by processes that are no relatives, and gone with the last of them."""

import os
import signal
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from hpc_yolo.data.cache_files import FileOfProcess, file_of, new_memory_cache, opened_cache
from hpc_yolo.data.decoded import plan_slots

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
