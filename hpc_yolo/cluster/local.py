"""Jobs that run as processes of this machine, named by the process id of submitit's controller."""

from __future__ import annotations

import contextlib
import os
import platform


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
