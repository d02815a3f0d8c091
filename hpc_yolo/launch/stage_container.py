"""The command of a stage in the container of the run: one task of srun on the first node."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from hpc_yolo.cluster.container import JobFacts, all_mounts, container_command
from hpc_yolo.cluster.container_checks import require_container_on_node
from hpc_yolo.cluster.env_values import literal
from hpc_yolo.cluster.mount_points import make_mount_points
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.sbatch import srun_command
from hpc_yolo.launch.container_job import job_facts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import BEST, LAST, Stage

# The step of a job of many tasks has one; how those are bound does not fit it.
ONE_TASK: dict[str, str | bool | list[str] | None] = {"nodes": "1", "ntasks": "1"}


def needs_container(spec: Spec, stage: Stage) -> bool:
    """Return True for a step that runs a model of a run in containers; a report and shell lines run outside of them."""
    return spec.cluster.used_container is not None and (stage.shell, stage.report) == (None, None)


def command_in_container(run: RunDirectory, spec: Spec, stage: Stage, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs hpc-yolo with `arguments` in the container of the run."""
    container, cluster = spec.cluster.used_container, _one_task(spec.cluster)
    assert container is not None
    made = container_command(container, cluster, _facts(run, spec, stage))
    task = shlex.join(["-m", "hpc_yolo", *arguments])
    return ["bash", "-c", " ".join([*srun_command(cluster, made), *made.python, task])]


def prepare_container(run: RunDirectory, spec: Spec, stage: Stage) -> None:
    """Check the container on this node, and make its mount points.

    Raises:
        SpecError: a variable is not set; the image or a mounted path does not exist, or cannot be mounted.
        InstallationError: the runtime is not installed.
    """
    container, environ = spec.cluster.used_container, current_environment()
    assert container is not None
    mounts = all_mounts(container, _facts(run, spec, stage))
    require_container_on_node(spec.cluster, mounts, environ)
    make_mount_points(container, mounts, environ)


def _one_task(cluster: ClusterSpec) -> ClusterSpec:
    return msgspec.structs.replace(cluster, srun=ONE_TASK, prefix=[])


def _facts(run: RunDirectory, spec: Spec, stage: Stage) -> JobFacts:
    """Return what the container must make usable for a stage: what the training needs, and its own files."""
    facts = job_facts(spec, run)
    return msgspec.structs.replace(facts, paths=list(dict.fromkeys([*facts.paths, *map(literal, _own_paths(stage))])))


def _own_paths(stage: Stage) -> Iterator[str]:
    """Yield the directories of the weights and the sources of a stage."""
    for kind in stage.kinds:
        weights = getattr(getattr(stage, kind), "weights", BEST)
        if weights not in (BEST, LAST):
            yield str(Path(weights).parent)
    for source in () if stage.predict is None else stage.predict.sources:
        if source.startswith("/"):
            path = Path(source)
            while not path.is_dir():  # a file, or a pattern
                path = path.parent
            yield str(path)
