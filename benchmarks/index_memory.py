"""Measure the index of a split of 100,000 images: memory of loader workers that use all of it, and its start-up.

Proportional set sizes (each shared page divided among the processes that have it) of a task and its forked workers,
each of which has read every path and label. The same with a tuple of paths and one of label arrays, as it was before.
Then the time to read the cache of a scan, to list 100,000 loose files and to check that none has changed.

python benchmarks/index_memory.py [--files]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.scan import _cache_key
from hpc_yolo.data.scan_cache import _pack, _read_cache

NUM_IMAGES = 100_000
OBJECTS = 7


def main() -> None:
    """Print a line for each measurement."""
    random = np.random.default_rng(0)
    paths = [f"/scratch/datasets/coco/images/train2017/{number:012}.jpg" for number in range(NUM_IMAGES)]
    labels = [random.random((OBJECTS, 5), dtype=np.float32) for _ in paths]
    index = ImageIndex(FlatPaths.of(paths), np.full((NUM_IMAGES, 2), 640, np.int32), FlatLabels.of(labels), 0, 0, ())
    for name, sequences in (("flat arrays", (index.paths, index.labels)), ("tuples", (tuple(paths), tuple(labels)))):
        one, eight = (memory_mb(num_workers, sequences) for num_workers in (1, 8))
        print(f"{name}: {one:.0f} MB with one worker, {eight:.0f} MB with eight, {eight / one:.2f} times")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        cache = Path(directory) / "cache.npz"
        cache.write_bytes(_pack(index, "key"))
        print(f"cache of a scan: {cpu_s(lambda: _read_cache(cache, 'key')):.3f} s of CPU time")
        if "--files" in sys.argv:
            measure_files(Path(directory))


def memory_mb(num_workers: int, sequences: Sequence[Sequence[object]]) -> float:
    """Return the memory of this process and of workers that have read all items of `sequences`."""
    ready_read, ready_write = os.pipe()
    end_read, end_write = os.pipe()
    workers = []
    for _ in range(num_workers):
        if (pid := os.fork()) == 0:
            os.close(end_write)
            for sequence in sequences:
                for item in sequence:
                    len(item)  # type: ignore[arg-type]
            os.write(ready_write, b"1")
            os.read(end_read, 1)
            os._exit(0)
        workers.append(pid)
    for _ in workers:
        os.read(ready_read, 1)
    total = sum(pss_kb(pid) for pid in (os.getpid(), *workers)) / 1024
    os.close(end_write)
    for pid in workers:
        os.waitpid(pid, 0)
    return total


def pss_kb(pid: int) -> int:
    """Return the proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure_files(directory: Path) -> None:
    """Print the times for loose files; they are empty."""
    for kind, suffix in (("images", "jpg"), ("labels", "txt")):
        (directory / kind / "train").mkdir(parents=True)
        for number in range(NUM_IMAGES):
            (directory / kind / "train" / f"{number:012}.{suffix}").touch()
    (directory / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [a]\n")
    dataset = load_dataset(directory / "d.yaml")
    print(f"list of files: {cpu_s(lambda: open_split(dataset, 'train')):.2f} s of CPU time")
    reader = open_split(dataset, "train")
    print(f"check of files: {cpu_s(lambda: _cache_key(reader, dataset)):.2f} s of CPU time")


def cpu_s(work: Callable[[], object]) -> float:
    """Return the CPU time of the second call of `work`."""
    work()
    started_s = time.process_time()
    work()
    return time.process_time() - started_s


if __name__ == "__main__":
    main()
