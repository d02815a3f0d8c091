"""The Python interpreter of a job's tasks."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.schema import ClusterSpec

IMPORT_TIMEOUT_S = 20.0


def require_python(cluster: ClusterSpec) -> None:
    """Check that cluster.python can import this package, as far as that can be determined on this machine.

    A path may exist on compute nodes only, and setup or env may change what an interpreter finds.

    Raises:
        SpecError: it exists here and cannot import hpc_yolo.
    """
    if cluster.python is None or cluster.modules or cluster.setup_lines or cluster.env:
        return
    python = Path(cluster.python)
    if not python.is_absolute() or not python.exists():
        return
    command = [str(python), "-c", "import hpc_yolo"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return
    except OSError as error:
        problem = error.strerror or str(error)
    else:
        if found.returncode == 0:
            return
        problem = (found.stderr.strip() or f"exit status {found.returncode}").splitlines()[-1]
    raise SpecError(
        f"cluster.python: {python} cannot import hpc_yolo: {problem}",
        hint=f"install it there: {python} -m pip install hpc-yolo",
    )
