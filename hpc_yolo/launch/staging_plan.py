"""What a submission says about the staging of the dataset (`data.stage`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import parse_mem_bytes, short_bytes
from hpc_yolo.core.variables import UnsetVariable, expanded, is_of_job, variables_in
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.dataset_source import source_of_run
from hpc_yolo.data.staging.measure import quick_size_bytes
from hpc_yolo.data.staging.room import file_system, is_local
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import AUTO, OFF
from hpc_yolo.spec.schema import Spec

AUTO_DIRECTORIES = "the first of $SLURM_TMPDIR, $LOCAL_SCRATCH, $TMPDIR and /dev/shm with room"


def staging_decision(run: RunDirectory, spec: Spec, *, for_slurm: bool) -> list[tuple[str, str]]:
    """Return the line of a dry run about staging; none where it is off."""
    data = spec.data
    if data.stage == OFF:
        return []
    if data.stage == AUTO and not for_slurm:
        return [("data", "not staged: data.stage is auto, and this is no Slurm job; a directory stages here too")]
    size_bytes = _size_bytes(run, spec)
    size = [] if size_bytes is None else [short_bytes(size_bytes)]
    limit = [] if data.size_limit is None else [f"limit {data.size_limit}"]
    if size_bytes is not None and data.size_limit is not None and size_bytes > parse_mem_bytes(data.size_limit):
        return [("data", f"not staged: {size[0]} are more than data.size_limit, {data.size_limit}")]
    where = AUTO_DIRECTORIES if data.stage == AUTO else data.stage
    details = f" ({', '.join([*size, *limit])})" if size or limit else ""
    return [("data", f"staged to {where} on each node{details}")]


def staging_warnings(spec: Spec, environ: Mapping[str, str], *, for_slurm: bool) -> list[str]:
    """Return why the nodes may not be able to stage, a sentence each."""
    stage = spec.data.stage
    if stage in (OFF, AUTO):
        return []
    setup = "\n".join(spec.cluster.setup_lines) if for_slurm else ""
    is_exported = for_slurm and spec.cluster.sbatch.get("export") in (None, "ALL")
    for name in variables_in(stage):
        is_made = name in spec.cluster.env or (for_slurm and (is_of_job(name) or re.search(rf"\b{name}\b", setup)))
        if not is_made and (name not in environ or (for_slurm and not is_exported)):
            state = "may not be set in the jobs: without it" if for_slurm else "is not set here:"
            return [f"data.stage: {stage}: the variable {name} {state} images are read from the dataset itself"]
    with_values = _here(stage, environ)
    if with_values is not None and with_values.is_dir() and not is_local(with_values):
        kind = file_system(with_values) or "unknown type"
        return [f"data.stage: {stage} is on a file system of several machines here ({kind}), not on a disk of a node"]
    return []


def _here(stage: str, environ: Mapping[str, str]) -> Path | None:
    """Return the directory `stage` of this machine, unless it is another one in a job."""
    if any(is_of_job(name) for name in variables_in(stage)):
        return None
    try:
        return Path(expanded(stage, environ))
    except UnsetVariable:
        return None


def _size_bytes(run: RunDirectory, spec: Spec) -> int | None:
    try:
        return quick_size_bytes(load_dataset(source_of_run(run, spec.data)))
    except DataError:  # on the nodes only
        return None
