"""The directories that `data.stage` names on a node."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.variables import UnsetVariable, expanded
from hpc_yolo.data.staging.room import is_local
from hpc_yolo.spec.data import AUTO

# In the order of preference: what sites set for a directory of the job on the node's own disk.
JOB_VARIABLES = ("SLURM_TMPDIR", "LOCAL_SCRATCH", "TMPDIR")
MEMORY = Path("/dev/shm")


def stage_directories(stage: str, environ: Mapping[str, str]) -> list[Path]:
    """Return the directories in which a copy may be made, the first to be tried first.

    Args:
        stage: a directory, maybe with variables, or auto.
        environ: variables of a task.

    Raises:
        DataError: there is none, or a variable is not set.
    """
    if stage != AUTO:
        try:
            return [Path(expanded(stage, environ))]
        except UnsetVariable as unset:
            raise DataError(f"the variable {unset.name} of {stage} is not set on {platform.node()}") from None
    named = [Path(environ[name]) for name in JOB_VARIABLES if environ.get(name, "").startswith("/")]
    found = [path for path in dict.fromkeys([*named, MEMORY]) if path.is_dir() and is_local(path)]
    if not found:
        raise DataError(f"none of {', '.join(f'${name}' for name in JOB_VARIABLES)} and {MEMORY} is a local directory")
    return found
