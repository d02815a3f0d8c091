"""Rules of `cluster.container`: which images a runtime takes, and the forms of mounts, variables and options."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpc_yolo.spec.container import ContainerSpec, ImageForm, image_form, parse_mount
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.schema import ClusterSpec

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FORMS: dict[str, dict[ImageForm, str]] = {  # with the text for users
    "apptainer": {"sif": ".sif", "squashfs": ".sqsh", "address": "docker://…", "path": "a directory"},
    "singularity": {"sif": ".sif", "squashfs": ".sqsh", "address": "docker://…", "path": "a directory"},
    "podman-hpc": {"address": "docker://…", "name": "a name such as me/train:1.0"},
    "shifter": {"address": "docker://…", "name": "a name such as me/train:1.0"},
    "charliecloud": {"squashfs": ".sqsh", "path": "a directory", "name": "the name of an image in its storage"},
    "pyxis": {"squashfs": ".sqsh", "address": "docker://…", "name": "a name such as me/train:1.0"},
}
ONLY_DOCKER = ("podman-hpc", "shifter")


def takes(runtime: str, image: str) -> bool:
    """Return True if `runtime` runs images of the form of `image`; a path with variables may be of any form."""
    form = image_form(image)
    if form == "path" and "$" in image:
        return "squashfs" in FORMS[runtime] or "path" in FORMS[runtime]
    if form == "address" and runtime in ONLY_DOCKER and not image.startswith("docker://"):
        return False
    return form in FORMS[runtime]


def missing_image(cluster: ClusterSpec) -> Iterator[Finding]:
    """Yield that `cluster.container` has no image, which only a site profile may leave to its specs."""
    if cluster.used_container is not None and not cluster.used_container.image:
        yield Finding(
            "cluster.container.image", "is missing", "a path, docker://… or a name; runtime none: no container"
        )


def container_findings(cluster: ClusterSpec) -> Iterator[Finding]:
    """Yield what is wrong with `cluster.container`."""
    container = cluster.container
    if container is None or container.runtime == "none":
        return
    yield from _image(container)
    yield from _mounts(container)
    yield from _inside(container)
    yield from _options(container)
    if cluster.executor in ("local", "debug"):
        message = f"not supported with executor {cluster.executor}"
        yield Finding("cluster.container", message, "null, or executor slurm", ("cluster.executor",))
    for name in cluster.srun:
        if name.startswith("container-"):
            yield Finding(f"cluster.srun.{name}", "cluster.container sets it", "leave it out")


def _image(container: ContainerSpec) -> Iterator[Finding]:
    image, runtime = container.image, container.runtime
    if image != image.strip():
        yield Finding("cluster.container.image", f"{image!r} is not an image", "a path, docker://… or a name")
    elif image and runtime != "auto" and not takes(runtime, image):
        known = ", ".join(FORMS[runtime].values())
        others = [name for name in FORMS if takes(name, image)]
        allowed = known + (f"; {image_text(image)} is for {', '.join(others)}" if others else "")
        yield Finding("cluster.container.image", f"{runtime} does not run {image}", allowed)


def image_text(image: str) -> str:
    """Return the form of `image` for a message."""
    return next(forms[form] for forms in FORMS.values() if (form := image_form(image)) in forms)


def _mounts(container: ContainerSpec) -> Iterator[Finding]:
    inside: set[str] = set()
    for index, written in enumerate(container.mounts):
        field = f"cluster.container.mounts[{index}]"
        try:
            mount = parse_mount(written)
        except ValueError as error:
            yield Finding(field, str(error), "such as /scratch, /data/coco:/coco or $SCRATCH/coco:/coco:ro")
            continue
        if mount.inside in inside:
            yield Finding(field, f"{mount.inside} is mounted twice", "one mount for each path inside")
        inside.add(mount.inside)
        if mount.is_read_only and container.runtime == "charliecloud":
            yield Finding(field, "charliecloud has no read-only mounts", f"{mount.host}:{mount.inside}")


def _inside(container: ContainerSpec) -> Iterator[Finding]:
    if container.workdir is not None and not container.workdir.startswith(("/", "$", "~")):
        message = f"{container.workdir!r} is not an absolute path"
        yield Finding("cluster.container.workdir", message, "such as /work; the run directory by default")
    for name in container.env:
        if not VARIABLE_NAME.fullmatch(name):
            yield Finding(f"cluster.container.env.{name}", "not the name of a variable", "letters, digits and _")
    python = container.python
    if not python or re.search(r"[\s$~]", python) or ("/" in python and not python.startswith("/")):
        message = f"{python!r} is not a program inside the image"
        yield Finding("cluster.container.python", message, "a name such as python3, or an absolute path")


def _options(container: ContainerSpec) -> Iterator[Finding]:
    for index, option in enumerate(container.options):
        field = f"cluster.container.options[{index}]"
        if re.match(r"-\S* ", option):
            name, _, value = option.partition(" ")
            yield Finding(field, f"{option!r} are two words", f"[{name}, {value.strip()!r}], an item for each word")
        elif container.runtime == "pyxis" and not re.match(r"--(no-)?container-", option):
            yield Finding(field, f"{option!r} is not an option of pyxis", "--container-…; others are cluster.srun")
