"""Staging of shards by two processes of one node at once, against `cp` of the same files.

    python benchmarks/staging.py [--gigabytes 2] [--rounds 5] [--cache warm] [--source DIR] [--stage DIR]

Alternates `cp -r`, one staging process and two at once, in each round, from a warm and from a cold page cache of the
source; writes are not synced, by either. Prints the medians of wall and CPU time, and the ratio of the rates (limit
0.8). Random bytes stand for the shards of a packed set, which are copied as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hpc_yolo.data.staging.node import NodeStaging, StageRequest

SHARD_BYTES = 2**28
CHUNK_BYTES = 2**20
LIMIT = 0.8


def main() -> None:
    """Make the files, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--stage", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--cache", choices=["warm", "cold", "both"], default="both")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # in a process that stages: the list of files
    options = parser.parse_args()
    if options.one:
        stage_here(Path(options.one), options.stage)
        return
    with (
        tempfile.TemporaryDirectory(dir=options.source) as source,
        tempfile.TemporaryDirectory(dir=options.stage) as stage,
    ):
        files = write_shards(Path(source), options.gigabytes * 2**30 // SHARD_BYTES)
        listed = Path(stage) / "files.json"
        listed.write_text(json.dumps(files))
        for is_cold in [state == "cold" for state in ("warm", "cold") if options.cache in (state, "both")]:
            measure(Path(source), Path(stage), listed, options.rounds, is_cold=is_cold)


def write_shards(directory: Path, number: int) -> list[str]:
    """Write files of random bytes; return their paths."""
    paths = [directory / f"train-{shard:05d}.tar" for shard in range(number)]
    for path in paths:
        with path.open("wb") as file:
            for _ in range(SHARD_BYTES // CHUNK_BYTES):
                file.write(os.urandom(CHUNK_BYTES))
    os.sync()
    return [str(path) for path in paths]


def measure(source: Path, stage: Path, listed: Path, rounds: int, *, is_cold: bool) -> None:
    """Alternate the ways to copy, and print the medians."""
    ways: dict[str, Callable[[Path], None]] = {
        "cp -r": lambda target: run(["cp", "-r", str(source), str(target)]),
        "one process": lambda target: stage_with(listed, target, 1),
        "two processes": lambda target: stage_with(listed, target, 2),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, copy in ways.items():
            target = stage / "copy"
            target.mkdir()
            for path in source.iterdir():
                prepare(path, is_cold=is_cold)
            begin_s, begin_cpu_s = time.monotonic(), cpu_s()
            copy(target)
            found[name].append((time.monotonic() - begin_s, cpu_s() - begin_cpu_s))
            shutil.rmtree(target)
            os.sync()
    print("source not in the page cache" if is_cold else "source in the page cache")
    reference = found["cp -r"]
    for name, times in found.items():
        ratios = [base[0] / own[0] for base, own in zip(reference, times, strict=True)]
        wall_s, used_s = (statistics.median(column) for column in zip(*times, strict=True))
        rate = statistics.median(ratios)
        verdict = "" if name == "cp -r" or rate >= LIMIT else f"   under the limit {LIMIT}"
        print(
            f"  {name:14} {wall_s:6.2f} s, CPU {used_s:5.2f} s, rate over that of cp {rate:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}){verdict}"
        )


def prepare(path: Path, *, is_cold: bool) -> None:
    """Drop `path` from the page cache, or read it into the cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if is_cold:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while os.read(descriptor, CHUNK_BYTES):
                pass
    finally:
        os.close(descriptor)


def stage_with(listed: Path, target: Path, number: int) -> None:
    """Stage with `number` processes at once; one of them copies."""
    command = [sys.executable, __file__, "--one", str(listed), "--stage", str(target)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    copied = [int(process.communicate()[0]) for process in processes]
    assert sorted(copied)[:-1] == [0] * (number - 1), copied
    assert max(copied) > 0


def stage_here(listed: Path, stage: Path) -> None:
    """Stage the listed files, as one rank of a node does; print how many bytes this process has copied."""
    files = json.loads(listed.read_text())
    staging = NodeStaging(StageRequest(str(stage), None, "", lambda: files), {})
    staging.start()
    while staging.result is None:
        staging.wait(0.5)
    assert staging.result.files, staging.result.why_not
    print(staging.progress.copied_bytes)
    staging.close(is_over=False)


def run(command: list[str]) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


def cpu_s() -> float:
    """Return the CPU time of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
