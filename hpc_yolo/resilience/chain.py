"""Chain mode: the successor of a job waits in the queue from the job's first minute and runs if that does not finish.

For sites that forbid requeueing, or where a requeued job has to wait until its old credential has expired (two minutes
by default) while a successor runs at once. It depends on the job by `afternotok`; Slurm removes it when the job has
finished with exit code 0.

The successor gets the script, the arguments and the options that the job was submitted with.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpc_yolo.cluster import scheduler, slurm_command
from hpc_yolo.cluster.batch_job import BatchJob
from hpc_yolo.cluster.jobs import slurm_job_state
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.cluster.queueing import adopt_lost_jobs, queue_script
from hpc_yolo.core.errors import CancelledError, ClusterError, SchedulerUnavailable
from hpc_yolo.resilience.run_over import move_stages_behind
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, all_submissions

# A script exports its arguments in this variable, quoted for a shell: Slurm does not keep them apart.
ARGUMENTS_VARIABLE = "HPC_YOLO_ARGUMENTS"
# Options that belong to one submission, or that `ensure_successor` sets.
_NOT_INHERITED = frozenset(
    {"array", "a", "begin", "b", "chdir", "D", "dependency", "d", "exclude", "x", "hold", "H"}
    | {"kill-on-invalid-dep", "parsable", "quiet", "Q", "test-only", "verbose", "v", "wait", "W", "wrap"}
)
_SHORT = {"account": "A", "constraint": "C", "nodelist": "w", "partition": "p", "qos": "q", "time": "t"}
_SCRIPT_PARTITION = re.compile(r"^#SBATCH\s+(?:--partition[= ]|-p ?)(?P<names>\S+)", re.MULTILINE)


def ensure_successor(run: RunDirectory, process: ProcessInfo, exclude: Sequence[str] = ()) -> str:
    """Queue the job that follows this task's job if that does not finish, unless it is queued; return its id.

    Args:
        exclude: nodes that it must not get.

    Raises:
        ClusterError: Slurm refuses.
    """
    assert process.job_id is not None
    adopted = adopt_lost_jobs(run)
    before = all_submissions(run)
    queued = next((submission.job_id for submission in before if submission.after == process.job_id), None)
    if queued is not None:
        if exclude:
            scheduler.exclude_nodes(queued, exclude)
        if adopted:
            move_stages_behind(run, process.job_id, queued)
        return queued
    job = scheduler.batch_job(process.job_id)
    planned = _planned_successor(process, before)
    with tempfile.TemporaryDirectory(dir=run.jobs) as directory:
        script = Path(directory, "successor.sbatch")
        script.write_text(job.script, encoding="utf-8")
        submission = queue_script(
            run,
            script,
            planned,
            options=successor_options(job, process.job_id, exclude),
            arguments=script_arguments(job, run),
            sbatch=slurm_command.with_sbatch_variables(planned.variables),
        )
    move_stages_behind(run, process.job_id, submission.job_id)
    return submission.job_id


def _planned_successor(process: ProcessInfo, submissions: Sequence[Submission]) -> Submission:
    """Return the record of the successor of this process's job: of the size of that job."""
    assert process.job_id is not None
    own = next((submission for submission in submissions if submission.job_id == process.job_id), None)
    array_task = process.job_id.partition("_")[2]
    return Submission(
        time=time.time(),
        executor="slurm",
        job_id=f"_{array_task}" if array_task else "",
        host=process.host or socket.gethostname(),
        num_nodes=process.num_nodes if own is None else own.num_nodes,
        tasks_per_node=process.local_world_size if own is None else own.tasks_per_node,
        gpus_per_node=0 if own is None else own.gpus_per_node,
        after=process.job_id,
        variables={} if own is None else own.variables,
        cluster=None if own is None else own.cluster,
        requeue="" if own is None else own.requeue,
    )


def successor_options(job: BatchJob, job_id: str, exclude: Sequence[str]) -> list[str]:
    """Return sbatch's options for the successor of `job`, whose id is `job_id`."""
    kept = list(_inherited(job.options))
    named = {_name(option) for option in kept}
    partition = _SCRIPT_PARTITION.search(job.script)
    for name, value in job.settings.items():
        is_one_of_several = name == "partition" and partition and value in partition["names"].split(",")
        if name not in named and _SHORT.get(name) not in named and not is_one_of_several and name != "exclude":
            kept.append(f"--{name}={value}")
    away_from = [*job.settings.get("exclude", "").split(","), *exclude]
    kept += [f"--exclude={','.join(filter(None, away_from))}"] if any(away_from) else []
    array_task = job_id.partition("_")[2]
    kept += [f"--array={array_task}"] if array_task else []
    return [*kept, f"--chdir={job.directory}", f"--dependency=afternotok:{job_id}", "--kill-on-invalid-dep=yes"]


def script_arguments(job: BatchJob, run: RunDirectory) -> list[str]:
    """Return the arguments of this job's script; the script that `submit` writes has none."""
    exported = current_environment().get(ARGUMENTS_VARIABLE)
    if exported is not None:
        return shlex.split(exported)
    is_own = run.script.is_file() and run.script.read_text(encoding="utf-8", errors="replace") == job.script
    return [] if is_own else list(job.arguments)


def cancel_successor(run: RunDirectory, job_id: str) -> None:
    """Cancel the job that would follow job `job_id`; where Slurm does not answer, that job ends by itself."""
    with contextlib.suppress(ClusterError):
        scheduler.cancel(submission.job_id for submission in all_submissions(run) if submission.after == job_id)


def require_predecessor_not_cancelled(run: RunDirectory, job_id: str) -> None:
    """Return if no user has cancelled the job that job `job_id` follows.

    Raises:
        CancelledError: a user has; that is meant for both.
    """
    if (cancelled := cancelled_predecessor(run, job_id)) is not None:
        raise CancelledError(
            f"job {cancelled}, which this one follows, was cancelled, so this one ends too",
            hint="submit the spec again to continue",
        )


def cancelled_predecessor(run: RunDirectory, job_id: str) -> str | None:
    """Return the job that `job_id` follows if a user has cancelled that one, which is meant for both; else None."""
    before = predecessor(run, job_id)
    if before is None:
        return None
    try:
        state = slurm_job_state(before)
    except SchedulerUnavailable:
        return None
    return before if state is not None and state.is_cancelled else None


def predecessor(run: RunDirectory, job_id: str) -> str | None:
    """Return the job that `job_id` follows; None for one that a user submitted."""
    return next((submission.after for submission in all_submissions(run) if submission.job_id == job_id), None)


def _inherited(options: Sequence[str]) -> Iterable[str]:
    """Yield those of `options` that a successor inherits, each with its value."""
    is_kept = True
    for option in options:
        if option.startswith("-"):
            is_kept = _name(option) not in _NOT_INHERITED
        if is_kept:
            yield option


def _name(option: str) -> str:
    """Return `partition` for `--partition=gpu`, `p` for `-pgpu`, "" for a value."""
    if option.startswith("--"):
        return option[2:].partition("=")[0]
    return option[1:2] if option.startswith("-") else ""
