"""Carry out a plan through submitit: start tasks on this machine, or queue the script as a Slurm job."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shlex
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hpc_yolo.cluster import scheduler, slurm_command
from hpc_yolo.cluster.env_values import expanded
from hpc_yolo.cluster.jobs import Job, stage_jobs
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.queueing import queue_script, require_not_active
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.core.files import exclusive_lock, write_atomic
from hpc_yolo.core.installation import require_import
from hpc_yolo.launch.plan import Plan
from hpc_yolo.launch.prepare import prepare_run, submitted_spec, take_back
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission

LOCAL_LIMIT_MIN = 60 * 24 * 365
LOCK_TIMEOUT_S = scheduler.SUBMIT_TIMEOUT_S + 60


class TrainingJob:
    """The callable that submitit pickles: the path of the run directory, from which a task reads everything else."""

    def __init__(self, run_directory: str) -> None:
        self.run_directory = run_directory

    def __call__(self) -> None:
        """Run the task; submitit calls it in the process of the task."""
        from hpc_yolo.training.start import start_task

        run = RunDirectory(Path(self.run_directory))
        start_task(run, submitted_spec(run))


def submit(plan: Plan) -> Submission:
    """Create the run directory, start or queue the job, and return the record of it.

    Raises:
        NameTakenError: another command has created the run since the plan was made.
        RunError: the run directory is not writable, or another command has queued the run meanwhile.
        ClusterError: Slurm refuses the job of the run or of a stage; the message is Slurm's. A new run that it refuses
            does not exist afterwards.
        SchedulerUnavailable: Slurm does not answer; see `queueing.queue_script`.
        InstallationError: a package that tasks on this machine need cannot be imported.
    """
    if plan.script is None:
        require_import()
    if not plan.continues:
        _prepare(plan)
    # The job of the executor `debug` runs in this process, which would hold the lock all the time.
    with contextlib.nullcontext() if plan.executor == "debug" else _submission_lock(plan.run):
        require_not_active(plan.run, slurm_answers=True)
        if plan.continues:
            _prepare(plan)
        if plan.script is None:
            return _start_local(plan)
        earlier = stage_jobs(plan.run)
        submission = _queue_run(plan)
        _queue_stages(plan, submission, earlier)
    return submission


def _prepare(plan: Plan) -> None:
    prepare_run(plan.run, plan.spec, needs_data=not plan.has_data_on_nodes, is_new=not plan.continues)


@contextlib.contextmanager
def _submission_lock(run: RunDirectory) -> Iterator[None]:
    """Let one command at a time start or queue a job of `run`, where the file system has locks.

    Raises:
        RunError: another command takes longer than sbatch does.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(run.submission_lock, LOCK_TIMEOUT_S))
        except TimeoutError:
            raise RunError(
                f"{run.path}: another command has been submitting this run for {LOCK_TIMEOUT_S:.0f} s",
                hint=f"see whether it is queued: hpc-yolo status --root {shlex.quote(str(run.path.parent))}",
            ) from None
        except OSError:
            pass
        yield


def _queue_run(plan: Plan) -> Submission:
    try:
        return queue(plan)
    except SchedulerUnavailable:
        raise
    except ClusterError:
        if not plan.continues:
            take_back(plan.run)
        raise


def _planned(plan: Plan) -> Submission:
    """Return the record of the job of `plan` before it has an id."""
    return Submission(
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


def queue(plan: Plan, options: Sequence[str] = ()) -> Submission:
    """Write the script of `plan`, queue it through submitit and return the record of the job.

    Args:
        options: of sbatch, besides those of the plan.

    Raises:
        ClusterError: Slurm refuses the job; the message is Slurm's.
        SchedulerUnavailable: Slurm does not answer; see `queueing.queue_script`.
    """
    from hpc_yolo.launch.script_executor import (
        ScriptExecutor,  # submitit takes 60 ms, not needed by a dry run
    )

    assert plan.script is not None
    write_atomic(plan.run.script, plan.script)
    sbatch = slurm_command.with_sbatch_variables(plan.variables)
    queue_job = functools.partial(
        queue_script,
        plan.run,
        plan.run.script,
        _planned(plan),
        options=[*plan.sbatch_options, *options],
        sbatch=sbatch,
    )
    executor = ScriptExecutor(plan.run.jobs, queue_job)
    executor.update_parameters(nodes=plan.num_nodes, ntasks_per_node=plan.tasks_per_node)
    try:
        executor.submit(TrainingJob(str(plan.run.path)))
    except SchedulerUnavailable:
        raise
    except ClusterError as error:
        hint = "show the request with --dry-run, and the partitions with sinfo"
        raise ClusterError(f"Slurm refuses the job: {error.message}", hint=hint) from error
    assert executor.submission is not None
    return executor.submission


def _queue_stages(plan: Plan, submission: Submission, earlier: Sequence[Job]) -> None:
    """Queue the stages that are jobs of their own behind the job of the run, in place of `earlier` ones that wait.

    If Slurm does not answer, the job of the run queues them when the run ends.

    Raises:
        ClusterError: Slurm refuses one; nothing stays queued.
    """
    from hpc_yolo.launch.stages import own_stage_jobs, queue_stages  # 20 ms, not needed by a dry run

    try:
        scheduler.cancel([job.address for job in earlier], only_waiting=True)
        queue_stages(plan.run, own_stage_jobs(plan.run, plan.spec), [submission.job_id])
    except SchedulerUnavailable:
        return
    except ClusterError:
        scheduler.cancel([submission.address, *(job.address for job in stage_jobs(plan.run))])
        raise


def _start_local(plan: Plan) -> Submission:
    """Start the tasks of `plan` on this machine through submitit and return the record of them."""
    import submitit

    executor = submitit.AutoExecutor(folder=plan.run.jobs, cluster=plan.executor)
    if plan.executor == "local":
        executor.update_parameters(
            tasks_per_node=plan.tasks_per_node,
            gpus_per_node=plan.gpus_per_node,
            timeout_min=LOCAL_LIMIT_MIN,
            stderr_to_stdout=True,
        )
        # AutoExecutor does not pass this parameter on; without it submitit exposes the first GPUs to the tasks.
        executor._executor.parameters["visible_gpus"] = plan.local_gpus
    with job_environment(plan.spec.cluster.env), _sigint_ignored():
        job = executor.submit(TrainingJob(str(plan.run.path)))
    submission = msgspec.structs.replace(_planned(plan), job_id=job.job_id)
    add_submission(plan.run, submission)
    if plan.executor == "debug" and (error := job.exception()) is not None:  # runs the job
        raise error
    return submission


@contextlib.contextmanager
def job_environment(added: dict[str, str]) -> Iterator[None]:
    """Remove the variables of a surrounding allocation and add `added`, inside the block."""
    before = current_environment()
    environ = clean_environment(before)
    for name, value in added.items():
        environ[name] = expanded(f"cluster.env.{name}", value, environ)  # which may refer to one before it, as in a job
    _replace_environment(environ)
    try:
        yield
    finally:
        _replace_environment(before)


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Let processes started inside the block ignore the terminal's Ctrl-C: SIGTERM stops them after a save."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _replace_environment(environ: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
