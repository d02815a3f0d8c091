"""Evidence about the end of a job's tasks: from the job's log, from accounting, from its cgroup."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_output import StepUsage
from hpc_yolo.cluster.srun_output import first_end, is_out_of_memory, last_message, parse_task_ends
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.resilience.attempt_end import StepEnd

LOG_TAIL_BYTES = 4 << 20
OWN_OUTPUT = Path("/proc/self/fd/1")
CGROUPS = Path("/sys/fs/cgroup")
_JOB_GROUP = re.compile(r"(?P<path>/.*?/job_\w+)(/|$)")


def read_step_end(process: ProcessInfo, status: ExitStatus) -> StepEnd:
    """Return the end of srun's tasks, whose exit status is `status`."""
    log = since_start(own_log(), process.attempt)
    usage = StepUsage()
    if process.job_id is not None:
        with contextlib.suppress(ClusterError):
            usage = scheduler.step_usage(process.job_id)
    ends = parse_task_ends(log)
    first = first_end(ends, ())
    return StepEnd(
        status=status,
        ends=ends,
        is_out_of_memory=is_out_of_memory(log) or usage.is_out_of_memory,
        peak_bytes=job_peak_bytes() or usage.peak_bytes,
        last_message=last_message(log, None if first is None else first.ranks[0]),
    )


def own_log(output: Path = OWN_OUTPUT) -> str:
    """Return the end of the file that this process's output goes to; "" where that is no file."""
    try:
        with output.resolve(strict=True).open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES, 0))
            return file.read().decode(errors="replace")
    except (OSError, ValueError):
        return ""


def since_start(log: str, restart: int) -> str:
    """Return the part of `log` that belongs to start number `restart` of the job.

    It begins where a task announces that start; where none did, after the last announcement of an earlier one.
    """
    first = re.search(rf"^.*, start {restart} of its job$", log, re.MULTILINE)
    if first is not None:
        return log[first.start() :]
    earlier = list(re.finditer(r"^.*, start \d+ of its job$", log, re.MULTILINE))
    return log[earlier[-1].end() :] if earlier else log


def job_peak_bytes(own_groups: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> int | None:
    """Return the peak memory of the job on this node, by its cgroup; None where Slurm has created none."""
    with contextlib.suppress(OSError):
        for line in own_groups.read_text().splitlines():
            controllers, _, path = line.partition(":")[2].partition(":")
            job = _JOB_GROUP.match(path)
            if job is None or controllers not in ("memory", ""):
                continue
            name = "memory/{}/memory.max_usage_in_bytes" if controllers else "{}/memory.peak"
            with contextlib.suppress(OSError, ValueError):
                return int((root / name.format(job["path"].lstrip("/"))).read_text())
    return None
