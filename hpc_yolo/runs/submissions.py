"""The jobs of a run: one line each, written by the command that submits, or by rank 0 in chain mode.

Jobs that train are `all_submissions`; a stage after the training may have a job of its own (`stage_submissions`).
"""

from __future__ import annotations

import contextlib

import msgspec

from hpc_yolo.core.files import append_json_line, read_json_lines
from hpc_yolo.runs.directory import RunDirectory


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was started or queued.

    Attributes:
        time: in seconds since 1970.
        host: where it was submitted.
        after: the job that it follows, should that not finish; None for one that a user submitted.
        variables: SBATCH_ variables of the user's shell that sbatch read.
        cluster: Slurm's name of the cluster that has the job; None for that of `host`.
        home: Slurm's name of the cluster of `host`; None where it is not known.
        requeue: how the run continues after an interruption, if the spec does not set it; else "".
        stage: name of the stage that the job runs; "" for a job that trains.
        stage_number: how often that stage was submitted after one end of the run, this time included.
    """

    time: float
    executor: str
    job_id: str
    host: str
    num_nodes: int
    tasks_per_node: int
    gpus_per_node: int
    after: str | None = None
    variables: dict[str, str] = {}
    requeue: str = ""
    cluster: str | None = None
    home: str | None = None
    stage: str = ""
    stage_number: int = 1

    @property
    def address(self) -> str:
        """Address of the job for `cluster.scheduler`: its id, with @ and the cluster where that is another one."""
        return self.job_id if self.cluster is None else f"{self.job_id}@{self.cluster}"


def add_submission(run: RunDirectory, submission: Submission) -> None:
    """Append `submission`.

    Raises:
        OSError: it cannot be written.
    """
    append_json_line(run.submissions, msgspec.to_builtins(submission))


def all_submissions(run: RunDirectory) -> list[Submission]:
    """Return all jobs that train, oldest first."""
    return [submission for submission in _read(run) if not submission.stage]


def stage_submissions(run: RunDirectory) -> list[Submission]:
    """Return the jobs of stages since a user last submitted the training, oldest first."""
    found: list[Submission] = []
    for submission in _read(run):
        if submission.stage:
            found.append(submission)
        elif submission.after is None:
            found.clear()
    return found


def _read(run: RunDirectory) -> list[Submission]:
    """Return the jobs of `run`, oldest first; lines of another version are skipped."""
    found = []
    for record in read_json_lines(run.submissions):
        with contextlib.suppress(msgspec.ValidationError):
            found.append(msgspec.convert(record, Submission))
    return found


def address_of(run: RunDirectory, job_id: str) -> str:
    """Return the address of job `job_id` of `run`; the id itself where it was submitted otherwise."""
    found = [submission.address for submission in _read(run) if submission.job_id == job_id]
    return found[-1] if found else job_id


def last_chain(run: RunDirectory) -> list[Submission]:
    """Return the newest submission by a user and the jobs that follow it; [] for a run that was never submitted."""
    chain: list[Submission] = []
    for submission in all_submissions(run):
        follows = chain and submission.after == chain[-1].job_id
        chain = [*chain, submission] if follows else [submission]
    return chain
