"""A process that stages files, for tests of several ones; it reports a line of JSON on each change.

    python stage_process.py SOURCE STAGE [PAUSE_BYTES]

It copies the files of SOURCE to STAGE as a training does. With PAUSE_BYTES it stops within the copy at that byte until
a line comes from its standard input. At the end it holds the copy until its standard input is closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from hpc_yolo.data.staging.node import NodeStaging, StageRequest


def report(state: str, staging: NodeStaging) -> None:
    """Print how far the staging is."""
    progress, result = staging.progress, staging.result
    found = {
        "state": state,
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "copied_bytes": progress.copied_bytes,
        "files": "" if result is None else result.files,
        "why_not": "" if result is None else result.why_not,
    }
    os.write(1, f"{json.dumps(found)}\n".encode())  # at once: several threads report


def pause_at(staging: NodeStaging, num_bytes: int, is_free: threading.Event) -> None:
    """Stop the threads of the copy when it has copied `num_bytes`, until `is_free` is set."""
    add = staging.progress.add
    has_paused = threading.Lock()

    def add_or_pause(added_bytes: int = 0) -> None:
        add(added_bytes)
        if staging.progress.copied_bytes >= num_bytes:
            if has_paused.acquire(blocking=False):
                report("paused", staging)
            is_free.wait()

    setattr(staging.progress, "add", add_or_pause)  # noqa: B010


def main(source: str, stage: str, pause_bytes: str = "0") -> None:
    """Stage, then hold the copy."""
    files = sorted(str(path) for path in Path(source).rglob("*") if path.is_file())
    staging = NodeStaging(StageRequest(stage, None, source, lambda: files), dict(os.environ))
    is_free = threading.Event()
    if int(pause_bytes):
        pause_at(staging, int(pause_bytes), is_free)
    staging.start()
    report("started", staging)

    def free() -> None:
        sys.stdin.readline()
        is_free.set()

    threading.Thread(target=free, daemon=True).start()
    last = -1
    while staging.result is None:
        staging.wait(0.05)
        if staging.progress.done_bytes != last:
            last = staging.progress.done_bytes
            report("waiting", staging)
    report("over", staging)
    sys.stdin.read()
    staging.close(is_over=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
