"""The script of a job that evaluates models beside the training: one task with the environment of the run's tasks."""

from __future__ import annotations

import shlex
import sys

import msgspec

from hpc_yolo.cluster import scheduler, slurm_command
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.sbatch import batch_script, srun_command
from hpc_yolo.cluster.sbatch_variables import split_variables
from hpc_yolo.cluster.stage_job import stage_cluster, stage_options
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.launch.container_job import task_command, with_runtime
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stages import StageRequest


def require_accepted(run: RunDirectory, spec: Spec) -> None:
    """Check that Slurm would take the job that evaluates models of `run`, as far as it answers.

    Raises:
        ClusterError: it refuses the job.
        SpecError: see `evaluation_script`.
    """
    script = evaluation_script(run, spec)
    variables, _ = split_variables(clean_environment(current_environment()), stage_options("", spec.cluster, ""))
    try:
        scheduler.estimate_start(script, run=slurm_command.with_sbatch_variables(variables))
    except SchedulerUnavailable:
        return
    except ClusterError as error:
        raise ClusterError(
            f"validate: aside: Slurm refuses a job that evaluates: {error.message}",
            hint="validate_cluster changes its request",
        ) from error


def evaluation_script(run: RunDirectory, spec: Spec) -> str:
    """Return the script of the job that evaluates models of `run`, which trains `spec`. It is not requeued.

    Raises:
        SpecError: the runtime of its container is open, or cannot mount a path of the run.
    """
    cluster = stage_cluster(spec.cluster, spec.validate_cluster or StageRequest())
    unmailed = {name: value for name, value in cluster.sbatch.items() if not name.startswith("mail-")}
    cluster = msgspec.structs.replace(cluster, requeue="off", sbatch=unmailed)
    spec = with_runtime(msgspec.structs.replace(spec, cluster=cluster))
    python = spec.cluster.python or sys.executable
    sure_python = python if "/" in python else sys.executable  # see `Plan.script`
    command = ["-u", "-m", "hpc_yolo", "evaluate-waiting", str(run.path)]
    task, container = task_command(spec, run, python, command)
    log = f"{str(run.evaluations).replace('%', '%%')}/%j.log"
    return batch_script(
        stage_options(f"{spec.name}-val", spec.cluster, log),
        spec.cluster,
        [" ".join([*srun_command(spec.cluster, container), task])],
        setup_record=run.setup_record,
        after_failed_setup=shlex.join([sure_python, *command]),
    )
