"""Hand a plan over: through submitit, start tasks on this machine or queue the script as a job of Slurm."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from hpc_yolo.cluster import slurm_command
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.queueing import queue_script
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.core.files import write_atomic
from hpc_yolo.core.installation import require_import
from hpc_yolo.launch.plan import Plan
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission
from hpc_yolo.spec.load import load_resolved_spec

LOCAL_LIMIT_MIN = 60 * 24 * 365


class TrainingJob:
    """What submitit pickles: the run directory's path. All else is read from there when a task starts."""

    def __init__(self, run_directory: str) -> None:
        self.run_directory = run_directory

    def __call__(self) -> None:
        """Run the task; submitit calls it in the process of the task."""
        from hpc_yolo.training.start import start_task

        run = RunDirectory(Path(self.run_directory))
        start_task(run, load_resolved_spec(run.spec))


def submit(plan: Plan) -> Submission:
    """Make the run directory, start or queue the job, and return the record of it.

    Raises:
        RunError: the run directory cannot be written.
        ClusterError: Slurm refuses; the message has its own words.
        SchedulerUnavailable: Slurm does not answer; see `queueing.queue_script`.
        InstallationError: a package that tasks on this machine need cannot be imported.
    """
    if plan.script is None:
        require_import()
    prepare_run(plan.run, plan.spec)
    planned = Submission(
        time=time.time(),
        executor=plan.executor,
        job_id="",
        host=platform.node(),
        num_nodes=plan.num_nodes,
        tasks_per_node=plan.tasks_per_node,
        gpus_per_node=plan.gpus_per_node,
        variables=dict(plan.variables),
        requeue="" if plan.requeue is None else plan.requeue.mode,
        cluster=plan.spec.cluster.slurm_cluster if plan.uses_slurm else None,
    )
    if plan.script is None:
        return _start_local(plan, planned)
    write_atomic(plan.run.script, plan.script)
    return _queue(plan, planned)


def _queue(plan: Plan, planned: Submission) -> Submission:
    """Queue the script of `plan` through submitit; the record of the job."""
    from hpc_yolo.launch.script_executor import (
        ScriptExecutor,  # submitit takes 60 ms, which a dry run need not wait for
    )

    sbatch = slurm_command.with_sbatch_variables(plan.variables)
    queue = functools.partial(
        queue_script, plan.run, plan.run.script, planned, options=plan.sbatch_options, sbatch=sbatch
    )
    executor = ScriptExecutor(plan.run.jobs, queue)
    executor.update_parameters(nodes=plan.num_nodes, ntasks_per_node=plan.tasks_per_node)
    try:
        executor.submit(TrainingJob(str(plan.run.path)))
    except SchedulerUnavailable:
        raise
    except ClusterError as error:
        hint = "see what it would get with --dry-run, and what there is with sinfo"
        raise ClusterError(f"Slurm refuses the job: {error.message}", hint=hint) from error
    assert executor.submission is not None
    return executor.submission


def _start_local(plan: Plan, planned: Submission) -> Submission:
    """Start the tasks of `plan` on this machine through submitit; the record of them."""
    import submitit

    executor = submitit.AutoExecutor(folder=plan.run.jobs, cluster=plan.executor)
    if plan.executor == "local":
        executor.update_parameters(
            tasks_per_node=plan.tasks_per_node,
            gpus_per_node=plan.gpus_per_node,
            timeout_min=LOCAL_LIMIT_MIN,
            stderr_to_stdout=True,
        )
        # AutoExecutor does not pass this one on, and without it submitit would show the tasks the first GPUs.
        executor._executor.parameters["visible_gpus"] = plan.local_gpus
    with _variables_of_the_job(plan.spec.cluster.env), _interrupt_ignored():
        job = executor.submit(TrainingJob(str(plan.run.path)))
    submission = msgspec.structs.replace(planned, job_id=job.job_id)
    add_submission(plan.run, submission)
    if plan.executor == "debug" and (error := job.exception()) is not None:  # this is what runs it
        raise error
    return submission


@contextlib.contextmanager
def _variables_of_the_job(added: dict[str, str]) -> Iterator[None]:
    """While the job is being submitted: without a surrounding allocation's variables, with those `added`."""
    before = current_environment()
    _replace_environment(clean_environment(before) | added)
    try:
        yield
    finally:
        _replace_environment(before)


@contextlib.contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """Processes started inside the block are deaf to the terminal's Ctrl-C: we tell them, and they save first."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _replace_environment(environ: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
