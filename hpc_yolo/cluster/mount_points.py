"""Directories in an image to mount on, for Charliecloud: if its tasks made them all at once, all but one would fail."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from hpc_yolo.cluster.env_values import expanded
from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.container import ContainerSpec, Mount, image_form

MAX_LINKS = 40


def make_mount_points(container: ContainerSpec, mounts: Iterable[Mount], environ: Mapping[str, str]) -> None:
    """Make in an image of Charliecloud, if that is a directory, what `mounts` need.

    Args:
        container: the section of the spec.
        mounts: of a task.
        environ: the variables of the job.

    Raises:
        SpecError: the image is not writable, or has a file where a directory is needed.
    """
    if container.runtime != "charliecloud" or image_form(container.image) != "path":
        return
    image = Path(expanded("cluster.container.image", container.image, environ))
    for mount in mounts:
        host = Path(expanded("cluster.container.mounts", mount.host, environ))
        point = path_in_image(image, expanded("cluster.container.mounts", mount.inside, environ))
        try:
            if host.is_dir():
                point.mkdir(parents=True, exist_ok=True)
            elif not point.exists():
                point.parent.mkdir(parents=True, exist_ok=True)
                point.touch()
        except OSError as error:
            raise SpecError(
                f"cluster.container.image: {point}, to mount {host} on, cannot be made: {error.strerror}",
                hint="make it in the image, or mount below a directory that the image has",
            ) from error


def path_in_image(image: Path, path: str) -> Path:
    """Return where `path` of a container is in the directory of its image; absolute links lead inside the image."""
    current, parts, links = image, list(PurePosixPath(path).parts[1:]), 0
    while parts:
        current = current / parts.pop(0)
        if current.is_symlink() and links < MAX_LINKS:
            links += 1
            target = PurePosixPath(os.readlink(current))  # noqa: PTH115, as text
            current = image if target.is_absolute() else current.parent
            parts[:0] = target.parts[1:] if target.is_absolute() else target.parts
        elif current.name == "..":
            current = image if current.parent == image else current.parent.parent
    return current
