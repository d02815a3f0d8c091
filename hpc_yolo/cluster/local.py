"""Jobs that run as processes of this machine, named by the process id of submitit's controller."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path


def machine_id() -> str:
    """This machine since its last start and its numbering of processes: where equal, process ids mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def process_start(pid: int) -> int | None:
    """When process `pid` of this machine started, in ticks since boot; None where there is none."""
    state, *fields = _stat(pid)
    return None if state == "Z" else int(fields[18])


def process_start_time(pid: int) -> float | None:
    """When process `pid` of this machine started, in seconds since 1970; None where there is none."""
    ticks = process_start(pid)
    if ticks is None:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped process `pid` of this machine, until SIGCONT comes."""
    return _stat(pid)[0] == "T"


def local_job_is_alive(job_id: str, host: str) -> bool:
    """Whether the controller of a local job lives; on another host nobody can tell, and it is believed."""
    if host != platform.node():
        return True
    pid = int(job_id)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a finished child of ours would count as alive until it is read
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as somebody else
    return True


def _stat(pid: int) -> list[str]:
    """What /proc says of a process, from its state on; a process that is not there is a zombie too."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z"]
