"""Checks before anything is queued: what would fail in a minute on a node is better said now.

The dataset is there, rows of one's own make a network, the run directory can be written, the run is not under way
already, and the partition takes a job of this size and length. What Slurm cannot say because it does not answer is
passed over; sbatch has the last word.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import yaml

from hpc_yolo.cluster import scheduler, site
from hpc_yolo.cluster.local import local_job_is_alive
from hpc_yolo.cluster.site import Partition
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.doctor import find_measured, losses
from hpc_yolo.errors import CheckpointError, ClusterError, RunError, SchedulerUnavailable, SpecError
from hpc_yolo.quantities import format_time, parse_time_s
from hpc_yolo.queueing import adopt_lost_jobs
from hpc_yolo.resources import resource_folder
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import last_chain
from hpc_yolo.spec.freeze import freeze_problem
from hpc_yolo.spec.schema import Spec
from hpc_yolo.weights.published import published_names


def preflight(spec: Spec, run: RunDirectory, *, for_slurm: bool) -> list[str]:
    """Check `spec` against this machine and, for Slurm, against the partitions.

    Returns:
        What a person should know of the dataset, and what would lose work when the job is interrupted, a line each.

    Raises:
        SpecError: the rows of the model make no network, or none for pictures of train.imgsz or without the layers of
            train.freeze; TensorBoard is missing.
        DataError: the dataset or one of its splits is not there.
        CheckpointError: the weights are not there.
        RunError: the folder of runs cannot be written, or the run is under way.
        ClusterError: the partition does not exist or would never start the job.
    """
    dataset = load_dataset(Path(spec.data))
    if Path(spec.model).suffix in (".yaml", ".yml"):
        require_network(spec.model, dataset.num_classes, spec.train.imgsz)
    require_layers_to_learn(spec)
    if spec.weights and not Path(spec.weights).is_file() and Path(spec.weights).name not in published_names():
        names = ", ".join(published_names())
        raise CheckpointError(
            f"weights: there is no file {spec.weights}, and it is none of the published ones ({names})",
            hint="write weights: '' to begin from scratch",
        )
    if spec.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise SpecError(
            "train.tensorboard: needs the package tensorboard, which is not installed here",
            hint="pip install 'hpc-yolo[tensorboard]', or --set train.tensorboard=false",
        )
    require_writable(Path(spec.output).absolute())
    # Where Slurm was looked for and gave no answer, asking it again would only cost seconds.
    require_not_under_way(run, slurm_answers=for_slurm or spec.cluster.executor != "auto")
    return [*dataset.messages, *(slurm_warnings(spec) if for_slurm else [])]


def require_network(model: str, num_classes: int, imgsz: int) -> None:
    """The file of rows `model` must make a network whose largest stride divides `imgsz`."""
    import torch

    from hpc_yolo.models import build_model

    with torch.device("meta"):
        stride = build_model(model, num_classes).picture_stride
    if imgsz % stride:
        raise SpecError(
            f"train.imgsz: {imgsz} is no multiple of {stride}, the largest stride of {model}",
            hint=f"such as --set train.imgsz={-(-imgsz // stride) * stride}",
        )


def require_layers_to_learn(spec: Spec) -> None:
    """The model must have the layers that train.freeze names, and one more.

    Raises:
        SpecError: it has not.
    """
    name = spec.model or Path(spec.weights).stem  # published weights are called after their model
    rows_file = Path(name) if Path(name).suffix else resource_folder("configs") / "models" / f"{name}.yaml"
    if not spec.train.freeze or not rows_file.is_file():
        return
    rows = yaml.safe_load(rows_file.read_text(encoding="utf-8"))
    if problem := freeze_problem(spec.train.freeze, len(rows["backbone"]) + len(rows["head"])):
        raise SpecError(f"train.freeze: {problem} ({name})", hint="--freeze 10 holds the backbone of yolov5 still")


def require_not_under_way(run: RunDirectory, *, slurm_answers: bool) -> None:
    """Two jobs of one run would write over each other: refuse where it can be known that one is there.

    Raises:
        RunError: it is queued or runs.
    """
    if slurm_answers:
        adopt_lost_jobs(run)
    chain = last_chain(run)
    if not chain:
        return
    submission = chain[-1]
    job_id = submission.job_id
    if submission.executor == "slurm":
        if not slurm_answers:
            return
        try:
            states = scheduler.job_states([before.job_id for before in chain[-2:]], scheduler.LOOK_TIMEOUT_S).values()
        except SchedulerUnavailable:
            return
        is_alive = any(state.is_alive for state in states)
    else:
        is_alive = submission.executor == "local" and local_job_is_alive(job_id, submission.host)
    if is_alive:
        raise RunError(
            f"{run.name} is queued already or runs, as {submission.executor} job {job_id}",
            hint=f"watch it with hpc-yolo follow {run.path}, or give the new run another --name",
        )


def require_writable(output: Path) -> None:
    """The nearest existing folder above the runs must let us make something in it."""
    folder = output
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(
            f"output: {output} cannot be written ({folder} {'does not let you' if folder.is_dir() else 'is a file'})",
            hint="give another place with --set output=DIR, on a file system that all nodes see",
        )


def slurm_warnings(spec: Spec) -> list[str]:
    """What would lose work when a job of `spec` is interrupted, a line each, after `check_partition`."""
    try:
        partitions = site.partitions()
    except ClusterError:
        return []
    partition = site.chosen_partition(spec.cluster.partition, partitions)
    if partition is not None:
        check_partition(spec, partition)
    try:
        settings = site.site_settings()
    except ClusterError:
        return []
    return [finding.line for finding in losses(settings, partition, spec, find_measured(spec))]


def check_partition(spec: Spec, chosen: Partition) -> None:
    """Refuse what the partition `chosen` would keep queued for ever."""
    cluster = spec.cluster
    if chosen.num_nodes is not None and cluster.nodes > chosen.num_nodes:
        raise ClusterError(
            f"cluster.nodes: partition {chosen.name} has {chosen.num_nodes} nodes, the spec asks for {cluster.nodes}",
            hint=f"ask for at most --nodes {chosen.num_nodes}, or for another partition",
        )
    if cluster.time is not None and chosen.max_time_s is not None and parse_time_s(cluster.time) > chosen.max_time_s:
        raise ClusterError(
            f"cluster.time: {cluster.time} is over the {format_time(chosen.max_time_s)} of partition {chosen.name}",
            hint=f"ask for --time {format_time(chosen.max_time_s)}: a run goes on in the next job",
        )
