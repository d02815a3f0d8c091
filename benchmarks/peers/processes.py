"""Processor time of a command by process, read from /proc: its loader workers, and everything else."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class CommandTimes(NamedTuple):
    """Seconds of a command: processor time of its loader workers and of all other processes, and wall time."""

    main_s: float
    loader_s: float
    wall_s: float


def run_timed(command: list[str], directory: Path, log: Path, environ: Mapping[str, str]) -> CommandTimes:
    """Run `command` in `directory` with its output in `log`; return its times.

    A loader worker is a process that was forked and runs on, so that it has the arguments of its parent. Processes are
    read every twentieth of a second: up to that much of their ends is missing.

    Raises:
        RuntimeError: the command fails; the message has the last line of its output.
    """
    started_s = time.perf_counter()
    seconds: dict[int, float] = {}
    workers: set[int] = set()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                for pid, parent in tree_of(process.pid).items():
                    seconds[pid] = cpu_s(pid) or seconds.get(pid, 0.0)
                    if pid != process.pid and arguments_of(pid) == arguments_of(parent) != b"":
                        workers.add(pid)
                time.sleep(POLL_S)
        finally:
            process.kill()
            process.wait()
    wall_s = time.perf_counter() - started_s
    if process.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{command[0]} exited with {process.returncode}: {''.join(last)}; its output: {log}")
    loader_s = sum(seconds[pid] for pid in workers)
    return CommandTimes(sum(seconds.values()) - loader_s, loader_s, wall_s)


def tree_of(root: int) -> dict[int, int]:
    """Return the process `root` and all processes below it, each with its parent."""
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and (fields := _fields(int(path.name))):
            parents[int(path.name)] = int(fields[1])
    found, new = {root}, {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return {pid: parents.get(pid, 0) for pid in found}


def arguments_of(pid: int) -> bytes:
    """Return the arguments of a process; b"" where it has gone."""
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return b""


def cpu_s(pid: int) -> float | None:
    """Return the processor time that a process has used; None where it has gone."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else None


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; [] where the process has gone."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
