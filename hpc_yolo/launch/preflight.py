"""Checks before a submission, so that a job does not fail on a node a minute later.

Dataset, layers of the model, weights, packages, container, run directory, partitions, and that the run is not already
queued or running. Each check is in the package of its subject; `preflight` defines their order.
"""

from __future__ import annotations

from pathlib import Path

from hpc_yolo.cluster.container_checks import require_container
from hpc_yolo.cluster.interpreter import require_python
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.queueing import require_not_active
from hpc_yolo.cluster.site import SiteSettings
from hpc_yolo.core.installation import require_tensorboard, require_tracker
from hpc_yolo.data.run_inputs import model_of
from hpc_yolo.doctor import find_measured, partition_warnings
from hpc_yolo.launch.evaluation_script import require_accepted
from hpc_yolo.launch.node_data import check_dataset
from hpc_yolo.launch.notify_checks import notify_warnings
from hpc_yolo.launch.weights import needed_weights
from hpc_yolo.runs.directory import RunDirectory, mode_warnings, require_writable
from hpc_yolo.spec.data import OFF
from hpc_yolo.spec.freeze import require_trainable_layers
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.shell import require_shell_syntax


def preflight(
    spec: Spec,
    run: RunDirectory,
    *,
    for_slurm: bool,
    slurm_answers: bool = True,
    settings: SiteSettings | None = None,
) -> list[str]:
    """Check `spec` on this machine and, for Slurm, against the partitions.

    Args:
        spec: the spec of the run.
        run: its run directory, which may not exist.
        for_slurm: the run becomes a Slurm job.
        slurm_answers: False where Slurm was found not to answer.
        settings: of the site; queried unless given.

    Returns:
        Warnings about container, dataset, messages, and about losing work when the job is interrupted, a line each.

    Raises:
        SpecError: the layers of the model are invalid, do not fit train.imgsz, or lack those of train.freeze;
            TensorBoard, a tracker or cluster.python cannot be imported; the container's image or a mounted path does
            not exist; a stage names something that does not exist; notify.command is no bash.
        DataError: the dataset or one of its splits does not exist.
        CheckpointError: the weights do not exist, or training cannot begin with them.
        RunError: the directory of runs is not writable, or the run is already queued or running.
        ClusterError: the partition does not exist or would never start the job; Slurm refuses the job of a stage or
            of an evaluation.
    """
    warnings: list[str] = []
    dataset = check_dataset(run, spec, current_environment(), for_slurm=for_slurm)
    _require_model(spec, run, dataset.num_classes or 1)
    _require_packages(spec, for_slurm=for_slurm)
    if for_slurm:
        warnings += require_container(spec.cluster, current_environment())
    require_writable(Path(spec.output).absolute())
    _require_further_jobs(spec, run, in_slurm=for_slurm and slurm_answers)
    require_not_active(run, slurm_answers=slurm_answers)
    warnings += [*dataset.messages, *mode_warnings(spec.output_mode)]
    warnings += _staging_warnings(spec, for_slurm=for_slurm)
    warnings += notify_warnings(spec, current_environment(), for_slurm=for_slurm)
    if for_slurm and slurm_answers:
        warnings += partition_warnings(spec.cluster, spec.checkpoint, find_measured(run, spec.model_source), settings)
    return warnings


def _staging_warnings(spec: Spec, *, for_slurm: bool) -> list[str]:
    if spec.data.stage == OFF:
        return []

    from hpc_yolo.launch.staging_plan import staging_warnings  # of no use without staging

    return staging_warnings(spec, current_environment(), for_slurm=for_slurm)


def _require_model(spec: Spec, run: RunDirectory, num_classes: int) -> None:
    """Check weights and layers of the model."""
    if weights := needed_weights(spec, run):
        from hpc_yolo.weights.archive import require_usable_weights  # of no use without weights

        require_usable_weights(Path(weights))
    if Path(spec.model).suffix in (".yaml", ".yml"):
        from hpc_yolo.models.family import require_valid_layers  # imports torch

        require_valid_layers(model_of(run, spec.model), num_classes, spec.train.imgsz)
    require_trainable_layers(spec.model or Path(spec.weights).stem, spec.train.freeze)


def _require_packages(spec: Spec, *, for_slurm: bool) -> None:
    """Check the packages that the tasks need, and for Slurm the shell lines and the Python that starts them."""
    if spec.train.tensorboard:
        require_tensorboard()
    if spec.tracking is not None and spec.tracking.to != "csv" and not (for_slurm and spec.cluster.python):
        require_tracker(spec.tracking.to)
    if for_slurm:
        require_shell_syntax(spec.cluster)
        require_python(spec.cluster)


def _require_further_jobs(spec: Spec, run: RunDirectory, *, in_slurm: bool) -> None:
    """Check the stages, and with `in_slurm` that Slurm would accept the jobs besides that of the run."""
    if spec.then:
        from hpc_yolo.launch.stage_checks import require_usable_stages  # 20 ms, of no use without stages

        require_usable_stages(spec, run, in_slurm=in_slurm)
    if spec.validate == "aside" and in_slurm:
        require_accepted(run, spec)
