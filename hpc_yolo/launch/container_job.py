"""The container of a job: its runtime, what its tasks need inside, and the command that starts them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

import hpc_yolo
from hpc_yolo.cluster.container import (
    PACKAGE_DIRECTORY,
    ContainerCommand,
    JobFacts,
    all_mounts,
    choose_runtime,
    container_command,
)
from hpc_yolo.cluster.container_checks import expanded_values, is_installed
from hpc_yolo.cluster.env_values import literal
from hpc_yolo.core.errors import DataError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.core.variables import variables_in
from hpc_yolo.data.archives.archive import PARTS, archive_on
from hpc_yolo.data.dataset import SPLITS, dataset_content
from hpc_yolo.data.dataset_paths import entries_of
from hpc_yolo.data.dataset_source import source_of_run
from hpc_yolo.launch.weights import needed_weights
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.container import Mount
from hpc_yolo.spec.data import AUTO, OFF
from hpc_yolo.spec.paths import has_variables
from hpc_yolo.spec.schema import Spec


def with_runtime(spec: Spec) -> Spec:
    """Return `spec` with the container runtime that it leaves open.

    Raises:
        SpecError: none is installed here, and the image does not show which is meant.
    """
    container = spec.cluster.used_container
    if container is None or container.runtime != "auto":
        return spec
    chosen = msgspec.structs.replace(container, runtime=choose_runtime(container, is_installed))
    return msgspec.structs.replace(spec, cluster=msgspec.structs.replace(spec.cluster, container=chosen))


def task_command(
    spec: Spec, run: RunDirectory, python: str, arguments: Sequence[str]
) -> tuple[str, ContainerCommand | None]:
    """Return (shell text of the Python of a task with `arguments`, how it starts in the container of `spec`).

    Args:
        spec: of the run.
        run: the run.
        python: interpreter without a container.
        arguments: of the interpreter.

    Raises:
        SpecError: runtimes cannot mount a path of the run.
    """
    container = spec.cluster.used_container
    if container is None:
        return shlex.join([python, *arguments]), None
    command = container_command(container, spec.cluster, job_facts(spec, run))
    return " ".join([*command.python, shlex.join(arguments)]), command


def container_mounts(spec: Spec, run: RunDirectory) -> list[Mount]:
    """Return the mounts of a task of `run`; [] without a container.

    Raises:
        SpecError: runtimes cannot mount a path of the run.
    """
    container = spec.cluster.used_container
    return [] if container is None else all_mounts(container, job_facts(spec, run))


def container_decisions(spec: Spec, run: RunDirectory) -> list[tuple[str, str]]:
    """Return the lines of a dry run about the container."""
    container = spec.cluster.used_container
    if container is None:
        return []
    mounts = [
        (mount.host if mount.host == mount.inside else f"{mount.host} at {mount.inside}")
        + (", read only" if mount.is_read_only else "")
        for mount in container_mounts(spec, run)
    ]
    package = "this package, mounted" if container.code == "mounted" else "the package in the image"
    return [
        ("container", f"{container.runtime} with {container.image}; {container.python} runs {package}"),
        *(("mount", text) for text in mounts),
        *(
            ("container", f"{field}: {value} is expanded where the tasks run")
            for field, value in expanded_values(container)
        ),
    ]


def job_facts(spec: Spec, run: RunDirectory) -> JobFacts:
    """Return what the container of `spec` must make usable inside."""
    container = spec.cluster.used_container
    data = [*data_paths(spec, run), *stage_paths(spec)]
    return JobFacts(
        run_directory=str(run.path),
        version=hpc_yolo.__version__,
        paths=list(dict.fromkeys([*data, *map(literal, weight_paths(spec, run))])),
        variables=sorted({name for path in data for name in variables_in(path)} - {"HOME"}),
        code=code_mount() if container is not None and container.code == "mounted" else None,
    )


def data_paths(spec: Spec, run: RunDirectory) -> Iterator[str]:
    """Yield the directories of the dataset, also where links lead; that of its YAML where it cannot be read here.

    Paths that differ between nodes have variables in them, as they are written.
    """
    try:
        content = dataset_content(source_of_run(run, spec.data))
    except DataError:
        yield from (_value(str(Path(path).parent)) for path in spec.data.paths)
        return
    root = content["path"]
    yield from _with_target(_on_disk(root))
    for name in SPLITS:
        for entry in content.get(name, []):
            yield from _split_directories(_below(root, entry))
    for entry in (*content.get("images", {}).values(), *entries_of(content.get("annotations"))):
        yield from _with_target(_below(root, entry))


def _below(root: str, entry: str) -> str:
    return entry if entry.startswith(("/", "$", "~")) else f"{root}/{entry}"


def _split_directories(split: str) -> Iterator[str]:
    """Yield the directory of the images and labels of a split, and where links in it lead."""
    if (on_disk := _on_disk(split)) != split:
        yield from _with_target(on_disk)
        return
    # Labels are beside the images: data/images/train has its labels in data/labels/train.
    head, images, tail = split.rpartition("/images/")
    yield from _with_target(head if images else str(Path(split).parent))
    for directory in [split, f"{head}/labels/{tail}"] if images else [split]:
        if not has_variables(directory) and os.path.realpath(directory) != directory:
            yield literal(os.path.realpath(directory))


def stage_paths(spec: Spec) -> Iterator[str]:
    """Yield the directory of the nodes that the spec names for copies of the dataset.

    Runtimes mount /dev by themselves, and auto takes what a container has.
    """
    stage = spec.data.stage
    if stage not in (OFF, AUTO) and not Path(stage).is_relative_to("/dev/shm"):
        yield _value(stage)


def weight_paths(spec: Spec, run: RunDirectory) -> Iterator[str]:
    """Yield the directory of the weights, also where links lead; not one that is gone and that `run` does not need."""
    if not spec.weights:
        return
    is_needed = bool(needed_weights(spec, run))
    for weights in (spec.weights, os.path.realpath(spec.weights)):
        directory = Path(weights).parent
        if is_needed or directory.exists():
            yield str(directory)


def code_mount() -> tuple[Mount, str]:
    """Return the mount of this package and the directory inside that Python has to search.

    A checkout is mounted as it is. Of an installed package only its own directory is: other packages beside it must not
    replace those of the image.
    """
    package = Path(hpc_yolo.__file__).absolute().parent
    if resource_directory("configs").parent == package:
        return Mount(literal(str(package)), f"{PACKAGE_DIRECTORY}/{package.name}"), PACKAGE_DIRECTORY
    checkout = str(package.parent)
    return Mount(literal(checkout), literal(checkout)), checkout


def _with_target(directory: str) -> Iterator[str]:
    yield _value(directory)
    if not has_variables(directory) and (real := os.path.realpath(directory)) != directory:
        yield literal(real)


def _on_disk(path: str) -> str:
    """Return `path`, or the directory of the archive that it goes through."""
    archive = archive_on(Path(os.path.realpath(path)))
    if archive is None and has_variables(path) and (part := PARTS.search(path)):
        archive = Path(path[: part.end()])
    return path if archive is None else str(archive.parent)


def _value(path: str) -> str:
    """Return `path` as a value in which variables are expanded, which a dollar sign in an existing path is not."""
    return path if has_variables(path) else literal(path)
