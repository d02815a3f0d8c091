"""Checks before anything is queued: what would fail in a minute on a node is better said now.

The dataset is there, rows of one's own make a network, the run directory can be written, the run is not under way
already, and a partition takes a job of this size and length. Slurm is not asked again where it does not answer, and
what it would accept is never refused.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from hpc_yolo.cluster import sbatch, scheduler, site, slurm_command
from hpc_yolo.cluster.jobs import alive_jobs, current_jobs
from hpc_yolo.cluster.queueing import adopt_lost_jobs
from hpc_yolo.cluster.site import Partition, SiteSettings
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.cluster.slurm_output import StartEstimate
from hpc_yolo.core.errors import CheckpointError, ClusterError, RunError, SchedulerUnavailable, SpecError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.core.units import format_time
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.run_inputs import dataset_yaml, model_of
from hpc_yolo.doctor import find_measured, losses, obstacles, startable
from hpc_yolo.runs.directory import RunDirectory, current_umask
from hpc_yolo.spec.freeze import freeze_problem
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.shell import require_shell_syntax
from hpc_yolo.weights.archive import require_weights
from hpc_yolo.weights.store import published_names

IMPORT_TIMEOUT_S = 20.0


def preflight(spec: Spec, run: RunDirectory, *, for_slurm: bool, ask_slurm: bool = True) -> list[str]:
    """Check `spec` against this machine and, for Slurm, against the partitions.

    Args:
        ask_slurm: False where it was found not to answer.

    Returns:
        What a person should know of the dataset, and what would lose work when the job is interrupted, a line each.

    Raises:
        SpecError: the rows of the model make no network, or none for images of train.imgsz or without the layers of
            train.freeze; TensorBoard is missing.
        DataError: the dataset or one of its splits is not there.
        CheckpointError: the weights are not there, or training cannot begin with them.
        RunError: the directory of runs cannot be written, or the run is under way.
        ClusterError: the partition does not exist or would never start the job.
    """
    dataset = load_dataset(dataset_yaml(run, spec.data))
    if Path(spec.model).suffix in (".yaml", ".yml"):
        require_network(model_of(run, spec.model), dataset.num_classes, spec.train.imgsz)
    require_layers_to_learn(spec.model or Path(spec.weights).stem, spec.train.freeze)
    if spec.weights and not Path(spec.weights).is_file() and Path(spec.weights).name not in published_names():
        names = ", ".join(published_names())
        raise CheckpointError(
            f"weights: there is no file {spec.weights}, and it is none of the published ones ({names})",
            hint="write weights: '' to begin from scratch",
        )
    if spec.weights and Path(spec.weights).is_file():
        require_weights(Path(spec.weights))
    if spec.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise SpecError(
            "train.tensorboard: needs the package tensorboard, which is not installed here",
            hint="pip install 'hpc-yolo[tensorboard]', or --set train.tensorboard=false",
        )
    if for_slurm:
        require_shell_syntax(spec.cluster)
        require_python(spec.cluster)
    require_writable(Path(spec.output).absolute())
    require_not_under_way(run, slurm_answers=ask_slurm)
    return [
        *dataset.messages,
        *mode_warnings(spec.output_mode),
        *(slurm_warnings(spec) if for_slurm and ask_slurm else []),
    ]


def require_network(model: str, num_classes: int, imgsz: int) -> None:
    """The file of rows `model` must make a network whose largest stride divides `imgsz`."""
    import torch

    from hpc_yolo.models import build_model

    with torch.device("meta"):
        stride = build_model(model, num_classes).image_stride
    if imgsz % stride:
        raise SpecError(
            f"train.imgsz: {imgsz} is no multiple of {stride}, the largest stride of {model}",
            hint=f"such as --set train.imgsz={-(-imgsz // stride) * stride}",
        )


def require_layers_to_learn(model: str, freeze: int | list[int]) -> None:
    """The model must have the layers that train.freeze names, and one more.

    Raises:
        SpecError: it has not.
    """
    rows_file = Path(model) if Path(model).suffix else resource_directory("configs") / "models" / f"{model}.yaml"
    if not freeze or not rows_file.is_file():
        return
    rows = yaml.safe_load(rows_file.read_text(encoding="utf-8"))
    if problem := freeze_problem(freeze, len(rows["backbone"]) + len(rows["head"])):
        raise SpecError(f"train.freeze: {problem} ({model})", hint="--freeze 10 holds the backbone of yolov5 still")


def require_python(cluster: ClusterSpec) -> None:
    """The Python that the spec names must have this package, as far as that can be seen from here.

    A path may be there on compute nodes only, and setup or env may change what an interpreter finds.

    Raises:
        SpecError: it is here and cannot import hpc_yolo.
    """
    if cluster.python is None or cluster.setup_lines or cluster.env:
        return
    python = Path(cluster.python)
    if not python.is_absolute() or not python.exists():
        return
    words = [str(python), "-c", "import hpc_yolo"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return
    except OSError as error:
        complaint = error.strerror or str(error)
    else:
        if found.returncode == 0:
            return
        complaint = (found.stderr.strip() or f"it ends with exit status {found.returncode}").splitlines()[-1]
    raise SpecError(
        f"cluster.python: {python} cannot import hpc_yolo: {complaint}",
        hint=f"install it there: {python} -m pip install hpc-yolo",
    )


def mode_warnings(output_mode: str) -> list[str]:
    """Return what the umask takes from `output_mode`."""
    mask = current_umask()
    if output_mode == "private" or not mask & 0o050:
        return []
    return [f"output_mode: group, but the umask {mask:04o} keeps the group out of the run directory; type umask 027"]


def require_not_under_way(run: RunDirectory, *, slurm_answers: bool) -> None:
    """Two jobs of one run would write over each other: refuse where it can be known that one is there.

    Raises:
        RunError: it is queued or runs.
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
    """The nearest existing directory above the runs must let us make something in it."""
    directory = output
    while not directory.exists():
        directory = directory.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        reason = "is not writable" if directory.is_dir() else "is a file"
        raise RunError(
            f"output: {output} cannot be written ({directory} {reason})",
            hint="give another directory with --set output=DIR, on a file system that all nodes see",
        )


def slurm_warnings(spec: Spec) -> list[str]:
    """Return what would keep a job of `spec` waiting or lose its work when it is interrupted, a line each.

    Raises:
        ClusterError: Slurm would refuse the job, by its partition, number of nodes or time limit.
    """
    try:
        found = site.partitions(run=slurm_command.on_cluster(spec.cluster.slurm_cluster))
    except ClusterError:
        return []
    try:
        partitions = site.chosen_partitions(spec.cluster.partitions, found)
    except ClusterError as unknown:
        require_accepted(spec.cluster, unknown)
        return []
    settings = None
    with contextlib.suppress(ClusterError):
        settings = site.site_settings(run=slurm_command.on_cluster(spec.cluster.slurm_cluster))
    is_lifted = settings is not None and settings.enforces_limits
    return [
        *obstacle_warnings(spec.cluster, partitions, is_lifted=is_lifted),
        *(loss_warnings(spec, partitions, settings) if settings is not None else []),
    ]


def obstacle_warnings(cluster: ClusterSpec, partitions: Sequence[Partition], *, is_lifted: bool) -> list[str]:
    """Return why none of `partitions` would start a job of `cluster`; [] where one would.

    A quality of service may lift the limits of a partition, and sites refuse what is over them or keep it waiting: what
    Slurm accepts is a warning.

    Args:
        is_lifted: the site refuses what is over a limit, so that what it accepts is not.

    Raises:
        ClusterError: Slurm would refuse the job.
    """
    found = [obstacles(partition, cluster) for partition in partitions]
    if not found or not all(found):
        return []
    reasons = [reason for reasons in found for reason in reasons]
    longest_s = max((partition.max_time_s or 0 for partition in partitions), default=0)
    hint = "ask for fewer --nodes, or for another --partition"
    if all(reason.startswith("cluster.time") for reason in reasons):
        hint = f"ask for --time {format_time(longest_s)}: a run goes on in the next job"
    require_accepted(cluster, ClusterError("; ".join(reasons), hint=hint))
    if is_lifted:
        return []
    return [
        f"{reason}; Slurm accepts the job, and keeps it waiting unless a QOS lifts that limit" for reason in reasons
    ]


def require_accepted(cluster: ClusterSpec, refusal: ClusterError) -> None:
    """Raise `refusal` if Slurm would refuse a job of `cluster` too; pass where it accepts the job or is silent."""
    try:
        estimate_start(sbatch.script("hpc-yolo", cluster, "true", "true", log="/dev/null"))
    except SchedulerUnavailable:
        return
    except ClusterError:
        raise refusal from None


def estimate_start(script: str, options: Sequence[str] = (), *, run: Run = run_command) -> StartEstimate:
    """Return when and where Slurm would start `script`, given sbatch's `options`; nothing is queued.

    Raises:
        ClusterError: Slurm would refuse it, or does not answer.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
        file.write(script)
        file.flush()
        return scheduler.estimate_start(Path(file.name), options, run=run)


def loss_warnings(spec: Spec, partitions: Sequence[Partition], settings: SiteSettings) -> list[str]:
    """Return what would lose work when a job of `spec` is interrupted, a line each."""
    measured = find_measured(RunDirectory(Path(spec.output) / spec.name), spec.model_source)
    found: dict[str, None] = {}
    for partition in startable(partitions, spec.cluster) or (None,):
        found |= dict.fromkeys(
            finding.line for finding in losses(settings, partition, spec.cluster, spec.checkpoint, measured)
        )
    return list(found)
