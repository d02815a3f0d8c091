"""What glibc does with freed memory, in processes of their own, since its settings cannot be undone."""

import ctypes
import subprocess
import sys

import pytest

from hpc_yolo.core.heap import keep_freed_memory, return_freed_memory

PROGRAM = """
import resource
import numpy as np
from hpc_yolo.core.heap import keep_freed_memory, return_freed_memory

MB, BLOCKS = 1 << 20, 40

def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(MB, dtype=np.uint8) for _ in range(BLOCKS)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / MB

{calls}
"""


@pytest.fixture(scope="module", autouse=True)
def glibc():
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("needs glibc")


def run(calls: str) -> list[float]:
    program = PROGRAM.format(calls=calls)
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    return [float(number) for number in result.stdout.split()]


def test_freed_memory_is_used_again_without_page_faults():
    by_default, kept = run("use(); print(use()); keep_freed_memory(); use(); print(use())")
    pages = 40 * 256
    assert by_default > 0.9 * pages  # else the test shows nothing
    assert kept < 0.1 * pages


def test_memory_is_returned_before_a_fork():
    calls = "keep_freed_memory(); use(); print(resident_mb()); return_freed_memory(); print(resident_mb())"
    kept, returned = run(calls)
    assert kept - returned > 30


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())  # musl has neither function
    keep_freed_memory()
    return_freed_memory()
