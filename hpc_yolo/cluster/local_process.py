"""Processes of this machine, as /proc shows them, and an identifier of the machine itself."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

_ZOMBIE = "Z"


def machine_id() -> str:
    """Return an identifier of this boot and PID namespace; where two are equal, process ids mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def process_start(pid: int) -> int | None:
    """Return when process `pid` started, in clock ticks since boot; None where it does not exist or has ended."""
    state, *fields = _stat(pid)
    return None if state == _ZOMBIE else int(fields[18])


def process_start_time(pid: int) -> float | None:
    """Return when process `pid` started, in seconds since 1970; None where it does not exist or has ended."""
    ticks = process_start(pid)
    if ticks is None:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def is_stopped(pid: int) -> bool:
    """Return whether process `pid` was stopped by a signal and waits for SIGCONT."""
    return _stat(pid)[0] == "T"


def process_arguments(pid: int) -> list[str] | None:
    """Return the command line of process `pid`; [] where it has ended, None where it exists but is not readable.

    A process that is just being started is not readable either.
    """
    try:
        content = Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return None if _exists(pid) else []  # /proc may hide the processes of other users
    if not content:
        return None if process_start(pid) is not None else []
    return os.fsdecode(content).split("\0")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; those of a zombie where there is no such process."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return [_ZOMBIE]
