"""Checks before a submission, so that a job does not fail on a node a minute later.

Dataset, layers of the model, weights, packages, run directory, and that the run is not already queued or running;
`partition_checks` compares the job with Slurm's partitions.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import yaml

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.jobs import alive_jobs, current_jobs
from hpc_yolo.cluster.queueing import adopt_lost_jobs
from hpc_yolo.core.errors import CheckpointError, RunError, SchedulerUnavailable, SpecError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.run_inputs import dataset_yaml, model_of
from hpc_yolo.launch.partition_checks import partition_warnings
from hpc_yolo.runs.directory import RunDirectory, current_umask
from hpc_yolo.spec.freeze import freeze_problem
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.shell import require_shell_syntax
from hpc_yolo.weights.archive import require_weights
from hpc_yolo.weights.store import published_names

IMPORT_TIMEOUT_S = 20.0


def preflight(spec: Spec, run: RunDirectory, *, for_slurm: bool, slurm_answers: bool = True) -> list[str]:
    """Check `spec` on this machine and, for Slurm, against the partitions.

    Args:
        spec: the spec of the run.
        run: its run directory, which may not exist.
        for_slurm: the run becomes a Slurm job.
        slurm_answers: False where Slurm was found not to answer.

    Returns:
        Warnings about the dataset, and about losing work when the job is interrupted, a line each.

    Raises:
        SpecError: the layers of the model are invalid, do not fit train.imgsz, or lack those of train.freeze;
            TensorBoard or cluster.python cannot be imported.
        DataError: the dataset or one of its splits does not exist.
        CheckpointError: the weights do not exist, or training cannot begin with them.
        RunError: the directory of runs is not writable, or the run is already queued or running.
        ClusterError: the partition does not exist or would never start the job.
    """
    dataset = load_dataset(dataset_yaml(run, spec.data))
    if Path(spec.model).suffix in (".yaml", ".yml"):
        require_valid_layers(model_of(run, spec.model), dataset.num_classes, spec.train.imgsz)
    require_trainable_layers(spec.model or Path(spec.weights).stem, spec.train.freeze)
    if spec.weights:
        require_usable_weights(Path(spec.weights))
    if spec.train.tensorboard:
        require_tensorboard()
    if for_slurm:
        require_shell_syntax(spec.cluster)
        require_python(spec.cluster)
    require_writable(Path(spec.output).absolute())
    require_not_active(run, slurm_answers=slurm_answers)
    return [
        *dataset.messages,
        *mode_warnings(spec.output_mode),
        *(partition_warnings(spec) if for_slurm and slurm_answers else []),
    ]


def require_valid_layers(model: str, num_classes: int, imgsz: int) -> None:
    """Check that the layers in the file `model` are valid and that their largest stride divides `imgsz`.

    Raises:
        SpecError: they are not, or it does not.
    """
    import torch

    from hpc_yolo.models import build_model

    with torch.device("meta"):
        stride = build_model(model, num_classes).image_stride
    if imgsz % stride:
        raise SpecError(
            f"train.imgsz: {imgsz} is not a multiple of {stride}, the largest stride of {model}",
            hint=f"for example --set train.imgsz={-(-imgsz // stride) * stride}",
        )


def require_trainable_layers(model: str, freeze: int | list[int]) -> None:
    """Check that `model` has the layers of train.freeze, and at least one that is not frozen.

    Raises:
        SpecError: it does not.
    """
    layers_file = Path(model) if Path(model).suffix else resource_directory("configs") / "models" / f"{model}.yaml"
    if not freeze or not layers_file.is_file():
        return
    layers = yaml.safe_load(layers_file.read_text(encoding="utf-8"))
    if problem := freeze_problem(freeze, len(layers["backbone"]) + len(layers["head"])):
        raise SpecError(f"train.freeze: {problem} ({model})", hint="--freeze 10 freezes the backbone of yolov5")


def require_usable_weights(weights: Path) -> None:
    """Check that `weights` is a file with which training can begin, or the name of published weights.

    Raises:
        CheckpointError: it is neither.
    """
    if weights.is_file():
        require_weights(weights)
    elif weights.name not in published_names():
        raise CheckpointError(
            f"weights: {weights} is neither a file nor published ({', '.join(published_names())})",
            hint="set weights: '' to train from scratch",
        )


def require_tensorboard() -> None:
    """Check that TensorBoard is installed.

    Raises:
        SpecError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise SpecError(
            "train.tensorboard: needs the package tensorboard, which is not installed here",
            hint="pip install 'hpc-yolo[tensorboard]', or --set train.tensorboard=false",
        )


def require_python(cluster: ClusterSpec) -> None:
    """Check that cluster.python can import this package, as far as that can be determined on this machine.

    A path may exist on compute nodes only, and setup or env may change what an interpreter finds.

    Raises:
        SpecError: it exists here and cannot import hpc_yolo.
    """
    if cluster.python is None or cluster.setup_lines or cluster.env:
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


def mode_warnings(output_mode: str) -> list[str]:
    """Return a warning where the umask removes permissions that `output_mode` gives."""
    mask = current_umask()
    if output_mode == "private" or not mask & 0o050:
        return []
    return [f"output_mode: group, but the umask {mask:04o} denies the group access to the run directory; use umask 027"]


def require_not_active(run: RunDirectory, *, slurm_answers: bool) -> None:
    """Check that no job of `run` is queued or running, as far as that can be determined.

    Raises:
        RunError: a job is queued or running.
    """
    if slurm_answers:
        adopt_lost_jobs(run)
    jobs = [job for job in current_jobs(run) if slurm_answers or not job.uses_slurm]
    try:
        alive = alive_jobs(jobs, scheduler.PROMPT_TIMEOUT_S)
    except SchedulerUnavailable:
        return
    if alive:
        raise RunError(
            f"{run.name} is already queued or running, as {alive[-1].name}",
            hint=f"watch it with hpc-yolo follow {run.path}, or give the new run another --name",
        )


def require_writable(output: Path) -> None:
    """Check that `output` can be created in the nearest existing directory above it.

    Raises:
        RunError: that directory is not writable.
    """
    directory = output
    while not directory.exists():
        directory = directory.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        reason = "is not writable" if directory.is_dir() else "is a file"
        raise RunError(
            f"output: {output} cannot be created ({directory} {reason})",
            hint="choose another directory with --set output=DIR, on a file system shared by all nodes",
        )
