"""Checks of a container: on the machine that submits, and on the first node of the job before the tasks start."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hpc_yolo.cluster.container import RUNTIMES
from hpc_yolo.cluster.env_values import expanded
from hpc_yolo.core.errors import ClusterError, InstallationError, SpecError
from hpc_yolo.core.variables import variables_in
from hpc_yolo.spec.container import ContainerSpec, Mount, image_form, parse_mount
from hpc_yolo.spec.schema import ClusterSpec

SRUN_HELP_TIMEOUT_S = 10.0


def is_installed(runtime: str, path: str | None = None) -> bool:
    """Return True if `runtime` is installed on this machine.

    Args:
        path: directories to search, instead of PATH of this process.
    """
    program = shutil.which(RUNTIMES[runtime].program, path=path)
    if program is None or runtime != "pyxis":
        return program is not None
    try:
        shown = subprocess.run(
            [program, "--help"], capture_output=True, text=True, timeout=SRUN_HELP_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "--container-image" in shown.stdout


def require_container(cluster: ClusterSpec, environ: Mapping[str, str]) -> list[str]:
    """Check the container of a job on the machine that submits it, as far as that can be determined there.

    Paths with variables are not checked, nor those of which this machine has no part: a file system may exist on
    compute nodes only.

    Returns:
        Warnings, a line each.

    Raises:
        SpecError: the image or a mounted path does not exist, or a directory is not an image.
    """
    container = cluster.used_container
    if container is None:
        return []
    warnings = []
    for field, value in _paths(container):
        if set(variables_in(value)) - {"HOME"}:
            continue
        path = Path(expanded(field, value, environ))
        problem = _problem(path, is_image=field.endswith(".image"))
        if problem is not None and path.parts[1:2] and Path("/", path.parts[1]).exists():
            raise SpecError(f"{field}: {path} {problem}", hint="check the path with ls, on this machine")
        if problem is not None:
            warnings.append(f"{field}: {path} {problem} here; the job ends at its start if that is so on its nodes too")
    runtime = container.runtime
    if not (cluster.setup_lines or cluster.module_lines) and not is_installed(runtime):
        warnings.append(f"{_not_installed(runtime)} here; the job ends at its start if that is so on its nodes too")
    if image_form(container.image) == "address" and runtime in ("apptainer", "singularity"):
        warnings.append(
            f"cluster.container.image: every task fetches and converts {container.image} when it starts; make a file "
            f"once: {runtime} build train.sif {container.image}"
        )
    return warnings


def require_container_on_node(cluster: ClusterSpec, mounts: Iterable[Mount], environ: Mapping[str, str]) -> None:
    """Check the container of a job on its first node.

    Args:
        cluster: the section of the spec.
        mounts: of a task; those of the run's own directories are checked for variables only.
        environ: the variables of the job.

    Raises:
        SpecError: a variable is not set; the image or a mounted path does not exist.
        InstallationError: the runtime is not installed.
    """
    container, host = cluster.used_container, platform.node()
    if container is None:
        return
    for field, value in _values(container):
        expanded(field, value, environ)
    for mount in mounts:
        expanded("data", mount.host, environ)
    if not is_installed(container.runtime, environ.get("PATH")):
        raise InstallationError(
            f"{_not_installed(container.runtime)} on {host}",
            hint="load its module in cluster.setup, or set cluster.container.runtime to an installed one",
        )
    for field, value in _paths(container):
        path = Path(expanded(field, value, environ))
        if (problem := _problem(path, is_image=field.endswith(".image"))) is not None:
            raise SpecError(f"{field}: {path} {problem} on {host}", hint="use a file system that all nodes see")


def require_no_container(cluster: ClusterSpec) -> None:
    """Refuse a container where tasks start on this machine.

    Raises:
        ClusterError: the spec has one.
    """
    if cluster.used_container is not None:
        raise ClusterError(
            "cluster.container: not supported for tasks on this machine, only for Slurm jobs",
            hint="--set cluster.container=null trains with this Python",
        )


def _not_installed(runtime: str) -> str:
    what = "the plugin pyxis of srun" if runtime == "pyxis" else RUNTIMES[runtime].program
    return f"cluster.container.runtime: {what} is not installed"


def _problem(path: Path, *, is_image: bool) -> str | None:
    """Return what is wrong with an image or a mounted path; None where nothing is."""
    if not path.exists():
        return "does not exist"
    if not os.access(path, os.R_OK):
        return "is not readable"
    if is_image and path.is_dir() and not any((path / name).exists() for name in ("bin", "usr")):
        return "is a directory but not an image: it has neither bin nor usr"
    return None


def _paths(container: ContainerSpec) -> Iterator[tuple[str, str]]:
    """Yield (field, value) of everything that names a file or a directory of the host."""
    if image_form(container.image) not in ("address", "name"):
        yield "cluster.container.image", container.image
    for index, written in enumerate(container.mounts):
        yield f"cluster.container.mounts[{index}]", parse_mount(written).host


def _values(container: ContainerSpec) -> Iterator[tuple[str, str]]:
    """Yield (field, value) of everything in which variables are expanded."""
    yield "cluster.container.image", container.image
    for index, written in enumerate(container.mounts):
        yield f"cluster.container.mounts[{index}]", parse_mount(written).host
        yield f"cluster.container.mounts[{index}]", parse_mount(written).inside
    if container.workdir is not None:
        yield "cluster.container.workdir", container.workdir
    for name, value in container.env.items():
        yield f"cluster.container.env.{name}", value


def expanded_values(container: ContainerSpec) -> list[tuple[str, str]]:
    """Return (field, value) of the values of `container` with variables, for messages."""
    found = {field: value for field, value in _values(container) if variables_in(value)}
    for index, written in enumerate(container.mounts):
        if (name := f"cluster.container.mounts[{index}]") in found:
            found[name] = written
    return list(found.items())
