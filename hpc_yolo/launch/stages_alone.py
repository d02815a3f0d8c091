"""Stages of a finished run that are submitted alone: failed or lost ones, and those that the spec has gained since."""

from __future__ import annotations

from collections.abc import Mapping

from hpc_yolo.cluster.queueing import adopt_lost_jobs
from hpc_yolo.core.errors import RunError
from hpc_yolo.launch.plan import Plan
from hpc_yolo.launch.prepare import prepare_run, submitted_spec
from hpc_yolo.launch.run_stages import run_local_stages
from hpc_yolo.launch.stage_checks import require_usable_stages
from hpc_yolo.launch.stages import next_number, queue_stages, stage_job, stage_statuses
from hpc_yolo.launch.submit import job_environment
from hpc_yolo.resilience.run_over import end_of_run
from hpc_yolo.resilience.stage_state import SKIPPED, is_due
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.run_end import RunEnd, recorded_end
from hpc_yolo.runs.stages import DONE
from hpc_yolo.runs.submissions import Submission
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stages import named_stages


def stages_to_submit(run: RunDirectory, spec: Spec) -> dict[str, int]:
    """Return the stages that a submission of `spec` runs alone, each with the number of its try.

    Returns:
        {} where the training is submitted: the run is not finished, or is to train longer.

    Raises:
        RunError: the run is finished, and no stage is left to submit.
        SchedulerUnavailable: Slurm does not answer.
    """
    if not spec.then or not run.exists:
        return {}
    end = recorded_end(Attempts(read_events(run.journal)))
    if end is None or not end.is_finished or _trains_longer(run, spec):
        return {}
    adopt_lost_jobs(run)
    statuses = stage_statuses(run, spec, end)
    if found := {status.name: next_number(run, status.name, end) for status in statuses if status.is_open}:
        return found
    hint = "train it longer with --set train.epochs=NUMBER"
    busy = next((status for status in statuses if status.state not in (DONE, SKIPPED)), None)
    if busy is None:
        raise RunError(f"{run.name} is finished, and so are its stages", hint=hint)
    detail = f": {busy.detail}" if busy.detail else ""
    raise RunError(f"{run.name} is finished, and its stage {busy.name} is {busy.state}{detail}", hint=hint)


def submit_stages(plan: Plan, numbers: Mapping[str, int]) -> list[Submission]:
    """Queue stages of the finished run of `plan` as jobs of their own, in their order.

    Args:
        numbers: from `stages_to_submit`.

    Raises:
        SpecError, DataError: a stage cannot run.
        ClusterError: Slurm refuses one, or does not answer.
    """
    require_usable_stages(plan.spec, plan.run, in_slurm=True)
    prepare_run(plan.run, plan.spec)
    return queue_stages(plan.run, [stage_job(plan.run, plan.spec, *item) for item in numbers.items()], [])


def run_stages_here(plan: Plan, numbers: Mapping[str, int] | None = None) -> bool:
    """Run stages of the run of `plan` on this machine, without Slurm; return True if all are done.

    Args:
        numbers: from `stages_to_submit`; None: those that follow the end of the training.

    Raises:
        SpecError, DataError: a stage cannot run.
    """
    if numbers is not None:
        require_usable_stages(plan.spec, plan.run, in_slurm=False)
        prepare_run(plan.run, plan.spec)
    end = end_of_run(plan.run)
    if end is None:
        return True
    with job_environment(plan.spec.cluster.env):
        return run_local_stages(plan.run, plan.spec, end, _due(plan.spec, end) if numbers is None else numbers)


def _due(spec: Spec, end: RunEnd) -> dict[str, int]:
    return {name: 1 for name, stage in named_stages(spec.then).items() if is_due(stage, end)}


def _trains_longer(run: RunDirectory, spec: Spec) -> bool:
    before = submitted_spec(run).train
    return (before.epochs, before.patience) != (spec.train.epochs, spec.train.patience)
