"""The section `cluster.container`, and the parts that its values have. Rules are in `container_rules`.

Annotations are not strings here, as in `schema`.
"""

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from hpc_yolo.spec.section import Section

ImageForm = Literal["sif", "squashfs", "address", "name", "path"]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_SUFFIXES: dict[str, ImageForm] = {
    **dict.fromkeys((".sif", ".simg", ".img"), "sif"),
    **dict.fromkeys((".sqsh", ".sqfs", ".squashfs"), "squashfs"),
}


class ContainerSpec(Section, frozen=True, kw_only=True):
    """The container in which the tasks of a Slurm job run; its batch script runs outside."""

    image: Annotated[
        str,
        Meta(
            description="Image: a .sif or .sqsh file, a directory, docker://…, or a name that the runtime knows. "
            "$NAME and ~ in front are expanded where the tasks run. Required, unless runtime is none."
        ),
    ] = ""
    runtime: Annotated[
        Literal["auto", "apptainer", "singularity", "pyxis", "shifter", "podman-hpc", "charliecloud", "none"],
        Meta(
            description="Program that runs it; auto: the first that is installed where you submit and takes the "
            "image, else apptainer; none: no container."
        ),
    ] = "auto"
    mounts: Annotated[
        list[str],
        Meta(
            description="Further directories of the host, as HOST, HOST:INSIDE or HOST:INSIDE:ro. The directories of "
            "the run, the dataset and the weights are mounted anyway. $NAME and ~ in front are expanded where the "
            "tasks run."
        ),
    ] = field(default_factory=list)
    workdir: Annotated[
        str | None, Meta(description="Working directory of the tasks inside. Default: the run directory.")
    ] = None
    env: Annotated[
        dict[str, str],
        Meta(
            description="Environment variables inside the container, besides those of cluster.env. Expanded as those "
            "are, on the host."
        ),
    ] = field(default_factory=dict)
    options: Annotated[
        list[str], Meta(description="Further options of the runtime, a word each, such as --cleanenv.")
    ] = field(default_factory=list)
    python: Annotated[str, Meta(description="Python inside the container: a name or an absolute path.")] = "python3"
    code: Annotated[
        Literal["image", "mounted"],
        Meta(
            description="hpc-yolo of the tasks: the one installed in the image, of the version that submits (image), "
            "or the submitting one (mounted)."
        ),
    ] = "image"


class Mount(Struct, frozen=True):
    """A directory or file of the host at a path inside the container."""

    host: str
    inside: str
    is_read_only: bool = False


def parse_mount(written: str) -> Mount:
    """Return the mount that `HOST`, `HOST:INSIDE`, `HOST:INSIDE:ro` or `HOST:INSIDE:rw` describes.

    Raises:
        ValueError: it has another form; the message has the reason.
    """
    host, *rest = written.split(":")
    inside, mode = (rest[0] if rest else host), (rest[1] if len(rest) > 1 else "rw")
    if len(rest) > 2 or mode not in ("ro", "rw"):
        raise ValueError(f"{written!r} is not HOST, HOST:INSIDE or HOST:INSIDE:ro")
    for path in (host, inside):
        if not path:
            raise ValueError(f"{written!r} mounts nothing: a path is empty")
        if not path.startswith(("/", "$", "~")):
            raise ValueError(f"{written!r}: {path} is not an absolute path")
        if "," in path:
            raise ValueError(f"{written!r}: runtimes split paths at commas")
    if inside.rstrip("/") == "":
        raise ValueError(f"{written!r} hides the whole image")
    return Mount(host, inside, is_read_only=mode == "ro")


def image_form(image: str) -> ImageForm:
    """Return the form of an image: a file by its suffix, an address, another path, or a name."""
    if _SCHEME.match(image):
        return "address"
    for suffix, form in _SUFFIXES.items():
        if image.endswith(suffix):
            return form
    return "path" if image.startswith(("/", "./", "../", "$", "~")) else "name"
