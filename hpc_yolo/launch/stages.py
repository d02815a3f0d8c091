"""The stages of a run in Slurm: their jobs, what became of them, and submitting one again alone."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpc_yolo.cluster import scheduler, slurm_command
from hpc_yolo.cluster.jobs import current_jobs, stage_jobs
from hpc_yolo.cluster.process import ProcessInfo, clean_environment, current_environment
from hpc_yolo.cluster.queueing import adopt_lost_jobs, queue_script
from hpc_yolo.cluster.sbatch_variables import split_variables
from hpc_yolo.cluster.slurm_command import Run
from hpc_yolo.cluster.stage_job import stage_cluster, stage_options, stage_script
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.core.files import make_directory, write_atomic
from hpc_yolo.core.units import counted
from hpc_yolo.resilience.run_over import dependency_after
from hpc_yolo.resilience.stage_state import StageFacts, StageStatus, is_due, stage_status
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import read_stages
from hpc_yolo.runs.submissions import Submission, address_of, stage_submissions
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import StageRequest, named_stages


@dataclass(frozen=True)
class StageJob:
    """The Slurm job of a stage.

    Attributes:
        cluster: its request.
        script: the text for sbatch.
        variables: SBATCH_ variables of the shell that apply to it.
    """

    name: str
    number: int
    cluster: ClusterSpec
    script: str
    variables: Mapping[str, str]

    @property
    def sbatch(self) -> Run:
        """Runs sbatch with the variables of the job."""
        return slurm_command.with_sbatch_variables(self.variables)


def stage_job(run: RunDirectory, spec: Spec, name: str, number: int = 1) -> StageJob:
    """Return the job of stage `name`, in its try `number` after an end of the run."""
    stage = named_stages(spec.then)[name]
    cluster = stage_cluster(spec.cluster, stage.cluster or StageRequest())
    python = spec.cluster.python or sys.executable
    command = ["-m", "hpc_yolo", "run-stage", str(run.path), name, "--number", str(number)]
    # A bare name is resolved in the PATH that setup defines, which is not known after a failed setup.
    sure_python = python if "/" in python else sys.executable
    log = str(run.stage_log(name, "")).removesuffix(".log").replace("%", "%%") + "%j.log"
    job_name = f"{spec.name}-{name}"
    script = stage_script(
        job_name,
        cluster,
        shlex.join([python, *command]),
        log=log,
        setup_record=run.setup_record,
        after_failed_setup=shlex.join([sure_python, *command]),
    )
    variables, _ = split_variables(clean_environment(current_environment()), stage_options(job_name, cluster, log))
    return StageJob(name, number, cluster, script, variables)


def own_stage_jobs(run: RunDirectory, spec: Spec) -> list[StageJob]:
    """Return the jobs of the stages of `in: job_of_its_own`, in their order."""
    return [stage_job(run, spec, name) for name, stage in named_stages(spec.then).items() if stage.has_own_job]


def stage_decisions(run: RunDirectory, spec: Spec, *, in_slurm: bool) -> list[tuple[str, str]]:
    """Return (subject, decision) pairs for the stages, lines of a dry run."""
    decisions = []
    for name, stage in named_stages(spec.then).items():
        after = "always" if stage.when == "always" else f"after {stage.when}"
        where = "on the first node of the job, if time is left" if in_slurm else "on this machine"
        if stage.has_own_job and in_slurm:
            cluster = stage_job(run, spec, name).cluster
            devices = counted(cluster.gpus_per_node, "GPU") if cluster.gpus_per_node else "CPUs only"
            limit = cluster.time or "the partition's time limit"
            where = f"a job of its own: {devices}, {counted(cluster.cpus_per_task, 'CPU core')}, {limit}"
        elif stage.has_own_job:
            where += ", since only Slurm has jobs"
        decisions.append(("stage", f"{name}: {after}, {where}"))
    return decisions


def require_accepted(jobs: Sequence[StageJob]) -> None:
    """Check that Slurm would take `jobs`, as far as it answers.

    Raises:
        ClusterError: it refuses one; the message names the stage.
    """
    for job in jobs:
        try:
            scheduler.estimate_start(job.script, run=job.sbatch)
        except SchedulerUnavailable:
            return
        except ClusterError as error:
            raise _refused(job, error) from error


def queue_stages(run: RunDirectory, jobs: Sequence[StageJob], after: Sequence[str]) -> list[Submission]:
    """Queue the jobs of stages, each to start when jobs `after` and the stage before it have ended.

    Raises:
        ClusterError: Slurm refuses one; those before it are queued.
        SchedulerUnavailable: no answer.
    """
    make_directory(run.stages)
    queued: list[Submission] = []
    for job in jobs:
        script = run.stage_script(job.name)
        write_atomic(script, job.script)
        planned = Submission(
            time=time.time(),
            executor="slurm",
            job_id="",
            host=platform.node(),
            num_nodes=1,
            tasks_per_node=1,
            gpus_per_node=job.cluster.gpus_per_node,
            variables=dict(job.variables),
            cluster=job.cluster.slurm_cluster,
            stage=job.name,
            stage_number=job.number,
        )
        before = [*after, *(submission.job_id for submission in queued[-1:])]
        options = [f"--dependency={dependency_after(before)}"] if before else []
        try:
            queued.append(queue_script(run, script, planned, options=options, sbatch=job.sbatch))
        except SchedulerUnavailable:
            raise
        except ClusterError as error:
            raise _refused(job, error) from error
    return queued


def queue_missing_stages(run: RunDirectory, spec: Spec, process: ProcessInfo, end: RunEnd) -> None:
    """Queue the stages after `end` that have no job: sbatch did not answer, or something else submitted the run's job.

    Args:
        process: the last command of the job of the run, behind which they are queued.

    Raises:
        ClusterError: Slurm refuses, or does not answer.
    """
    named = named_stages(spec.then)
    missing = [name for name, stage in named.items() if stage.has_own_job and is_due(stage, end)]
    if missing:
        adopt_lost_jobs(run)
    begun = {record.stage for record in read_stages(run) if record.end == end.attempt}
    begun |= {submission.stage for submission in stage_submissions(run)}
    jobs = [stage_job(run, spec, name) for name in missing if name not in begun]
    if jobs and process.job_id is not None:
        queue_stages(run, jobs, [process.job_id])


def cancel_undue_stages(run: RunDirectory, spec: Spec, end: RunEnd) -> None:
    """Cancel the jobs of stages that wait and are not for `end`: they would wait for a node only to leave it.

    Raises:
        ClusterError: Slurm refuses, or does not answer; such a job leaves when it starts.
    """
    undue = {name for name, stage in named_stages(spec.then).items() if not is_due(stage, end)}
    waiting = [submission.address for submission in stage_submissions(run) if submission.stage in undue]
    scheduler.cancel(waiting, only_waiting=True)


def stage_statuses(run: RunDirectory, spec: Spec, end: RunEnd | None) -> list[StageStatus]:
    """Return what became of the stages of `run`, whose jobs Slurm is asked about.

    Raises:
        SchedulerUnavailable: Slurm does not answer.
    """
    records = read_stages(run)
    run_job = next((job.address for job in current_jobs(run) if job.uses_slurm), None)
    in_slurm = {address_of(run, record.job_id) for record in records if record.job_id is not None}
    addresses = {*(job.address for job in stage_jobs(run)), *in_slurm, *([run_job] if run_job else [])}
    facts = StageFacts(
        end=end,
        records=records,
        submissions=stage_submissions(run),
        run_job=run_job,
        jobs=scheduler.job_states(addresses) if addresses else {},
    )
    return [stage_status(name, stage, facts) for name, stage in named_stages(spec.then).items()]


def next_number(run: RunDirectory, name: str, end: RunEnd) -> int:
    """Return the number of the next try of stage `name` after `end`; an earlier job may still come with its own."""
    numbers = [record.number for record in read_stages(run) if (record.stage, record.end) == (name, end.attempt)]
    numbers += [submission.stage_number for submission in stage_submissions(run) if submission.stage == name]
    return max(numbers, default=0) + 1


def _refused(job: StageJob, error: ClusterError) -> ClusterError:
    hint = "change the request with then: cluster in its stage; hpc-yolo submit --dry-run shows the script"
    return ClusterError(f"Slurm refuses the job of stage {job.name}: {error.message}", hint=hint)
