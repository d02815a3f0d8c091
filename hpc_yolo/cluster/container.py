"""The command line that starts a task in a container: words between srun and python, or options of srun.

One table, `RUNTIMES`; `container_command` is a pure function of the section and of facts about the job. All words are
shell text: variables in the values of the section are expanded by the script of the job.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

import msgspec

from hpc_yolo.cluster.env_values import literal, shell_word
from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.container import ContainerSpec, Mount, image_form, parse_mount
from hpc_yolo.spec.container_rules import takes
from hpc_yolo.spec.schema import ClusterSpec

VERSION_VARIABLE = "HPC_YOLO_VERSION"  # of the package outside, which the one in the image must have
PACKAGE_DIRECTORY = "/opt/hpc-yolo"  # inside, for a mounted package that is not in a checkout
AMD_GPU = re.compile(r"amd|gfx|instinct|mi[-_]?\d|radeon|vega", re.IGNORECASE)
# Beginnings of the names of variables that tasks need, for runtimes that pass on only what they are asked for.
HOST_VARIABLES = (
    *("SLURM", "MASTER_", "PMI", "HPC_YOLO_", "OMP_"),
    *("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "NCCL_", "RCCL_", "GLOO_", "TORCH", "FI_", "UCX_"),
)


class Runtime(msgspec.Struct, frozen=True):
    """How the command line of a runtime is written.

    Attributes:
        command: its program and subcommand; () for one that is part of srun.
        mount: beginning of the option of a mount, such as `--bind=`.
        workdir: beginning of the option of the working directory.
        nvidia, amd: options that make such GPUs usable inside.
        has_site_mounts: the site mounts its file systems in every container, so that only the spec's mounts are added.
    """

    command: tuple[str, ...]
    mount: str
    workdir: str
    nvidia: tuple[str, ...] = ()
    amd: tuple[str, ...] = ()
    has_site_mounts: bool = False

    @property
    def program(self) -> str:
        """The program that must be installed on the nodes."""
        return self.command[0] if self.command else "srun"


_APPTAINER = Runtime(("apptainer", "exec"), "--bind=", "--pwd=", nvidia=("--nv",), amd=("--rocm",))
RUNTIMES: Mapping[str, Runtime] = {
    "apptainer": _APPTAINER,
    "singularity": msgspec.structs.replace(_APPTAINER, command=("singularity", "exec")),
    "podman-hpc": Runtime(
        # One network, shared memory and numbering of processes, as without a container; the entry point of an image
        # would start something else.
        ("podman-hpc", "run", "--rm", "--network=host", "--ipc=host", "--pid=host", "--entrypoint="),
        "--volume=",
        "--workdir=",
        nvidia=("--gpu",),
        amd=("--device=/dev/kfd", "--device=/dev/dri"),
    ),
    "shifter": Runtime(("shifter",), "--volume=", "--workdir=", has_site_mounts=True),
    "charliecloud": Runtime(("ch-run",), "--bind=", "--cd="),
    "pyxis": Runtime((), "--container-mounts=", "--container-workdir="),
}


class JobFacts(msgspec.Struct, frozen=True):
    """What a container must make usable inside. Variables in the paths of directories and mounts are expanded.

    Attributes:
        run_directory: absolute path, without variables.
        paths: further directories of the run at the same path inside: dataset, weights.
        variables: names of those that the tasks expand.
        code: mount of the submitting package for `code: mounted`, and the directory inside that Python searches.
        version: of the submitting package.
    """

    run_directory: str
    version: str
    paths: Sequence[str] = ()
    variables: Sequence[str] = ()
    code: tuple[Mount, str] | None = None


class ContainerCommand(msgspec.Struct, frozen=True):
    """Shell words that start a task in a container.

    Attributes:
        srun_options: further options of the srun that starts the tasks.
        launcher: the runtime with its options and the image.
        python: the Python inside, with its environment.
    """

    srun_options: Sequence[str] = ()
    launcher: Sequence[str] = ()
    python: Sequence[str] = ()


def choose_runtime(container: ContainerSpec, is_installed: Callable[[str], bool]) -> str:
    """Return the runtime of `container`; auto is the first that is installed here and takes the image, else apptainer.

    Args:
        is_installed: returns True for the name of a runtime that is installed here.

    Raises:
        SpecError: none is installed here, and apptainer does not take the image.
    """
    if container.runtime != "auto":
        return container.runtime
    candidates = [name for name in RUNTIMES if takes(name, container.image)]
    chosen = next((name for name in candidates if is_installed(name)), None)
    if chosen is None and "apptainer" not in candidates:
        raise SpecError(
            f"cluster.container.runtime: none that runs {container.image} is installed here",
            hint=f"name the one of the compute nodes: {', '.join(candidates)}",
        )
    return chosen or "apptainer"


def container_command(container: ContainerSpec, cluster: ClusterSpec, facts: JobFacts) -> ContainerCommand:
    """Return how a task of a job with `cluster` starts in `container`, whose runtime is not auto."""
    runtime = RUNTIMES[container.runtime]
    python = [*_environment(container, cluster, facts), container.python]
    mounts = [_mount_text(mount) for mount in all_mounts(container, facts)]
    workdir = runtime.workdir + shell_word(container.workdir or literal(facts.run_directory))
    options = [*map(shlex.quote, container.options)]
    if container.runtime == "pyxis":
        own = [f"--container-image={_enroot_image(container.image)}", runtime.mount + ",".join(mounts), workdir]
        return ContainerCommand(srun_options=[*own, *options], python=python)
    own = [*runtime.command, *_gpu_options(runtime, container, cluster)]
    if container.runtime == "podman-hpc":
        own += [shlex.quote(f"--env={prefix}*") for prefix in HOST_VARIABLES]
    if container.runtime == "charliecloud":
        # Paths to mount on have to be in the image: `mount_points` makes them in a directory, this option over a file.
        own += [] if image_form(container.image) == "path" else ["--write-fake"]
    image = [f"--image={_shifter_image(container.image)}"] if container.runtime == "shifter" else []
    own += [*image, *(runtime.mount + text for text in mounts), workdir, *options]
    if container.runtime == "charliecloud":
        return ContainerCommand(launcher=[*own, shell_word(container.image), "--"], python=python)
    own += [] if image else [shell_word(container.image)]
    return ContainerCommand(launcher=own, python=python)


def all_mounts(container: ContainerSpec, facts: JobFacts) -> list[Mount]:
    """Return the mounts of a task, each after those that contain it. The spec's win over those of the run."""
    wanted = [parse_mount(written) for written in container.mounts]
    if not RUNTIMES[container.runtime].has_site_mounts:
        same = [mount.host for mount in wanted if mount.host == mount.inside and not mount.is_read_only]
        code = [] if facts.code is None else [facts.code[0]]
        needed = [*(Mount(path, path) for path in (literal(facts.run_directory), *facts.paths)), *code]
        outermost = _outermost([*same, *(mount.host for mount in needed if mount.host == mount.inside)])
        wanted += [_checked(mount) for mount in needed if mount.host != mount.inside or mount.host in outermost]
    by_inside: dict[str, Mount] = {}
    for mount in wanted:
        by_inside.setdefault(mount.inside.rstrip("/"), mount)
    return sorted(by_inside.values(), key=lambda mount: len(PurePosixPath(mount.inside).parts))


def _outermost(paths: Sequence[str]) -> list[str]:
    """Return `paths` without those that are equal to or below another."""
    pure = {PurePosixPath(path): path for path in paths}
    return [path for key, path in pure.items() if not any(parent in pure for parent in key.parents)]


def _checked(mount: Mount) -> Mount:
    """Return `mount`, whose paths the run determines.

    Raises:
        SpecError: runtimes cannot mount such a path.
    """
    if bad := [path for path in (mount.host, mount.inside) if set(path) & set(":,")]:
        raise SpecError(
            f"cluster.container: {bad[0]} cannot be mounted: runtimes split paths at colons and commas",
            hint="give that directory another name",
        )
    return mount


def _environment(container: ContainerSpec, cluster: ClusterSpec, facts: JobFacts) -> list[str]:
    """Return the words of `env`, which sets the variables inside: an image's own values would win over the host's.

    Packages of the host's Python, in its PYTHONPATH or in the home directory, must not replace those of the image.
    """
    values = {name: f'"${name}"' for name in (*cluster.env, *facts.variables)} | {
        name: shell_word(value) for name, value in container.env.items()
    }
    values.setdefault("PYTHONNOUSERSITE", "1")
    removed = [f"--unset={name}" for name in ("PYTHONHOME", "PYTHONPATH") if name not in values]
    if facts.code is not None:
        values["PYTHONPATH"] = ":".join(filter(None, (shlex.quote(facts.code[1]), values.get("PYTHONPATH"))))
        removed = [word for word in removed if word != "--unset=PYTHONPATH"]
    else:
        values[VERSION_VARIABLE] = shlex.quote(facts.version)
    return ["env", *removed, *(f"{name}={value}" for name, value in values.items())]


def _gpu_options(runtime: Runtime, container: ContainerSpec, cluster: ClusterSpec) -> tuple[str, ...]:
    """Return the options for the GPUs of the job, by their type; none where the spec has such options itself."""
    if cluster.gpus_per_node == 0 or set(container.options) & {*runtime.nvidia, *runtime.amd}:
        return ()
    gpu = cluster.gpu_type or cluster.gpu or ""  # a type, or the row of a site where jobs name none
    return runtime.amd if AMD_GPU.match(gpu) else runtime.nvidia


def _mount_text(mount: Mount) -> str:
    return f"{shell_word(mount.host)}:{shell_word(mount.inside)}{':ro' if mount.is_read_only else ''}"


def _enroot_image(image: str) -> str:
    """Return `image` for pyxis, where # follows the registry: nvcr.io#nvidia/pytorch:24.05-py3."""
    scheme, separator, name = image.rpartition("://")
    registry, slash, rest = name.partition("/")
    is_registry = slash and "#" not in name and ("." in registry or ":" in registry or registry == "localhost")
    if is_registry and image_form(image) in ("address", "name") and registry:
        return shlex.quote(f"{scheme}{separator}{registry}#{rest}")
    return shell_word(image)


def _shifter_image(image: str) -> str:
    name = shell_word(image.removeprefix("docker://"))
    return f"docker:{name}" if image.startswith("docker://") else name
