"""What is measured, and on what: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hpc_yolo.bench.records import Machine

SOURCE = Path(__file__).parents[2]


def this_machine() -> Machine:
    """Return this machine: processor, cores that this process may use, GPU, and versions."""
    import torch  # of no use to commands that only read records

    return Machine(
        cpu=cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        python=platform.python_version(),
        torch=str(torch.__version__),
        opencv=_version("opencv-python") or _version("opencv-python-headless"),
    )


def cpu_model() -> str:
    """Return the name of the processor; "" where Linux does not give it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    found = next((line for line in lines if line.startswith("model name")), "")
    return found.partition(":")[2].strip()


def source_commit() -> str:
    """Return the short commit of this package's source, with + where files were changed; "" outside a repository."""
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(SOURCE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
