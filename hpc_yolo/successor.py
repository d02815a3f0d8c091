"""Chain mode: a job's successor waits in the queue from the job's first minute and starts if the job does not finish.

For sites that forbid requeueing; and where a requeued job has to wait until its old credential has expired (two minutes
by default), a successor starts at once. It depends on the job by `afternotok`, and Slurm itself removes it when
the job has finished well.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.errors import ClusterError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission, all_submissions


def ensure_successor(run: RunDirectory, process: ProcessInfo, exclude: Sequence[str] = ()) -> str:
    """The id of the job that follows this task's job if that does not finish; queued now unless it is already.

    Args:
        exclude: nodes that it must not get.

    Raises:
        ClusterError: Slurm refuses.
    """
    assert process.job_id is not None
    before = all_submissions(run)
    queued = next((submission.job_id for submission in before if submission.after == process.job_id), None)
    if queued is not None:
        if exclude:
            scheduler.exclude_nodes(queued, exclude)
        return queued
    array_job, _, array_task = process.job_id.partition("_")
    job = scheduler.batch_job(process.job_id)
    options = [f"--dependency=afternotok:{process.job_id}", "--kill-on-invalid-dep=yes", f"--chdir={job.folder}"]
    options += [f"--array={array_task}"] if array_task else []
    options += [f"--exclude={','.join(exclude)}"] if exclude else []
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch", dir=run.path) as file:
        file.write(job.script)
        file.flush()
        new_id = scheduler.submit_script(Path(file.name), options, job.arguments)
    with contextlib.suppress(FileNotFoundError):  # which a plain script does not have
        os.link(run.jobs / f"{array_job}_submitted.pkl", run.jobs / f"{new_id}_submitted.pkl")
    job_id = f"{new_id}_{array_task}" if array_task else new_id
    own = next((submission for submission in before if submission.job_id == process.job_id), None)
    successor = Submission(
        time=time.time(),
        executor="slurm",
        job_id=job_id,
        host=process.host or socket.gethostname(),
        num_nodes=process.num_nodes,
        tasks_per_node=process.local_world_size,
        gpus_per_node=0 if own is None else own.gpus_per_node,
        after=process.job_id,
    )
    add_submission(run, successor)
    return job_id


def cancel_successor(run: RunDirectory, job_id: str) -> None:
    """Nobody is to follow job `job_id`; where Slurm does not answer, the successor itself looks, and leaves."""
    with contextlib.suppress(ClusterError):
        scheduler.cancel(submission.job_id for submission in all_submissions(run) if submission.after == job_id)


def cancelled_predecessor(run: RunDirectory, job_id: str) -> str | None:
    """The job that `job_id` follows, if a person has cancelled that one: the person meant both."""
    before = predecessor(run, job_id)
    if before is None:
        return None
    try:
        state = scheduler.job_states([before]).get(before)
    except ClusterError:
        return None
    return before if state is not None and state.state == "CANCELLED" else None


def predecessor(run: RunDirectory, job_id: str) -> str | None:
    """The job that `job_id` follows; None for one that a person submitted."""
    return next((submission.after for submission in all_submissions(run) if submission.job_id == job_id), None)
