"""The jobs of a run: whether they are alive, why they ended, and how to stop or requeue them.

Only `job_of` distinguishes Slurm from this machine; all other code uses the methods of `Job`. `job_states` queries
several Slurm jobs at once. Status screens use the shared cache instead (`job_cache`).
"""

from __future__ import annotations

import abc
import contextlib
import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.local_process import process_arguments
from hpc_yolo.cluster.slurm_output import UNKNOWN, JobState
from hpc_yolo.cluster.this_site import own_cluster
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, last_chain, stage_submissions

SLURM_POLL_S = 5.0
STATE_TIMEOUT_S = 2 * scheduler.QUERY_TIMEOUT_S


@dataclass(frozen=True)
class Job(abc.ABC):
    """One job of a run."""

    run: RunDirectory
    submission: Submission

    uses_slurm: ClassVar[bool] = False

    @property
    def id(self) -> str:
        """Slurm's id of the job, or the process id of submitit's controller."""
        return self.submission.job_id

    @property
    def address(self) -> str:
        """The id, followed by @ and the cluster where that is another one."""
        return self.submission.address

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name of the job in messages."""

    @abc.abstractmethod
    def state(self, timeout_s: float = STATE_TIMEOUT_S) -> JobState:
        """Return the state of the job.

        Raises:
            SchedulerUnavailable: Slurm did not answer within `timeout_s`.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """End the job; one that trains saves its state first.

        Raises:
            RunError: the job cannot be ended from this machine.
            ClusterError: Slurm refuses.
        """

    def requeue(self) -> None:
        """Put the job back into Slurm's queue; one that trains saves its state first.

        Raises:
            RunError: it is not a job of Slurm.
            ClusterError: Slurm refuses.
        """
        raise RunError(f"{self.run.name}: only Slurm jobs can be requeued", hint=f"hpc-yolo cancel {self.run.word}")


class SlurmJob(Job):
    """A job of Slurm."""

    uses_slurm: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        return f"Slurm job {self.address}"

    def state(self, timeout_s: float = STATE_TIMEOUT_S) -> JobState:
        """Return the state of the job as squeue or sacct reports it."""
        (state,) = job_states([self], timeout_s)
        return state

    def stop(self) -> None:
        """Cancel the job."""
        scheduler.cancel([self.address])

    def requeue(self) -> None:
        """Put the job back into the queue."""
        scheduler.requeue(self.address)


class LocalJob(Job):
    """Processes of one machine below submitit's controller, whose process id is the job's id."""

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        return f"local job {self.id}"

    def state(self, timeout_s: float = STATE_TIMEOUT_S) -> JobState:
        """Return RUNNING while the controller exists, else UNKNOWN: how it ended is in the journal.

        The job of another machine counts as running, since its processes are not visible here.
        """
        del timeout_s
        is_alive = not self.is_here or self._is_controller() is not False
        return JobState(self.id, "RUNNING" if is_alive else UNKNOWN)

    def stop(self) -> None:
        """Send SIGTERM to the controller, which passes it on to every task."""
        host = self.submission.host
        if not self.is_here:
            raise RunError(
                f"{self.run.name}: its processes run on {host} and cannot be ended from here",
                hint=f"run this command on {host}",
            )
        if not self._is_controller():
            raise RunError(f"{self.run.name}: process {self.id} is not its controller: {self.name} has ended")
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self.id), signal.SIGTERM)

    @property
    def is_here(self) -> bool:
        """True for a job of this machine, whose processes are visible."""
        return self.submission.host == platform.node()

    def _is_controller(self) -> bool | None:
        """Return whether the process is the controller of this run, since ids are reused; None where that is not known.

        submitit passes the directory of the jobs on its controller's command line.
        """
        arguments = process_arguments(int(self.id))
        if arguments is None:
            return None
        jobs = os.path.realpath(self.run.jobs)
        return any(os.path.realpath(argument) == jobs for argument in arguments if argument.startswith("/"))


class DebugJob(Job):
    """A job that ran inside the process that submitted it, and ended before that returned."""

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        return f"debug job {self.id}"

    def state(self, timeout_s: float = STATE_TIMEOUT_S) -> JobState:
        """Return UNKNOWN: how it ended is in the journal."""
        del timeout_s
        return JobState(self.id, UNKNOWN)

    def stop(self) -> None:
        """Refuse: only the process that submitted the job can end it."""
        raise RunError(f"{self.run.name}: a debug job ends with the process that submitted it")


_KINDS: dict[str, type[Job]] = {"slurm": SlurmJob, "local": LocalJob, "debug": DebugJob}


def job_of(run: RunDirectory, submission: Submission) -> Job:
    """Return the job of `run` that `submission` records."""
    return _KINDS[submission.executor](run, submission)


def current_jobs(run: RunDirectory) -> list[Job]:
    """Return the jobs of `run` that may be alive, the first to run first; [] where nothing was submitted.

    In a chain these are the last two: all before them have ended.
    """
    return [job_of(run, submission) for submission in last_chain(run)[-2:]]


def stage_jobs(run: RunDirectory) -> list[Job]:
    """Return the newest job of each stage of `run` that had one, in the order of their submission."""
    newest = {submission.stage: submission for submission in stage_submissions(run)}
    return [job_of(run, submission) for submission in sorted(newest.values(), key=lambda one: one.time)]


def job_states(jobs: Sequence[Job], timeout_s: float = STATE_TIMEOUT_S) -> list[JobState]:
    """Return the state of each of `jobs`, with one query for those of Slurm.

    Raises:
        SchedulerUnavailable: Slurm did not answer within `timeout_s`.
    """
    addresses = [job.address for job in jobs if job.uses_slurm]
    found = scheduler.job_states(addresses, timeout_s) if addresses else {}
    unknown = JobState("", UNKNOWN, is_stale=True)
    return [found.get(job.address, unknown) if job.uses_slurm else job.state() for job in jobs]


def alive_jobs(jobs: Sequence[Job], timeout_s: float = STATE_TIMEOUT_S) -> list[Job]:
    """Return those of `jobs` that wait or run.

    Raises:
        SchedulerUnavailable: Slurm did not answer within `timeout_s`.
    """
    return [job for job, state in zip(jobs, job_states(jobs, timeout_s), strict=True) if state.is_alive]


def stop_jobs(jobs: Sequence[Job]) -> None:
    """End all of `jobs`; those of Slurm by one command, so that none starts because the one before it has ended.

    Raises:
        RunError: a job cannot be ended from this machine.
        ClusterError: Slurm refuses.
    """
    require_own_cluster(jobs)
    if addresses := [job.address for job in jobs if job.uses_slurm]:
        scheduler.cancel(addresses)
    for job in jobs:
        if not job.uses_slurm:
            job.stop()


def require_own_cluster(jobs: Sequence[Job]) -> None:
    """Check that no job of `jobs` is one of another cluster with the same home directories: ids are the same there.

    Raises:
        RunError: one is.
    """
    known = [job for job in jobs if job.submission.home is not None and job.submission.cluster is None]
    own = own_cluster() if known else None
    for job in known:
        if own not in (None, job.submission.home):
            raise RunError(
                f"{job.run.name}: {job.name} is one of the cluster {job.submission.home}, and this machine is of {own}",
                hint=f"run this command on {job.submission.host}",
            )


def slurm_job_state(address: str) -> JobState | None:
    """Return the state of a job; None where Slurm does not know the job.

    Raises:
        SchedulerUnavailable: Slurm did not answer.
    """
    try:
        state = scheduler.job_states([address]).get(address)
    except SchedulerUnavailable:
        raise
    except ClusterError:  # not a job id
        return None
    return None if state is None or state.state == UNKNOWN else state


def job_has_ended(address: str) -> bool:
    """Return True if Slurm reports that the job has ended."""
    try:
        state = slurm_job_state(address)
    except SchedulerUnavailable:
        return False
    return state is not None and state.is_over


class JobWatch:
    """The current jobs of one run, watched until they end. Slurm is queried at most every `SLURM_POLL_S` seconds."""

    def __init__(self, run: RunDirectory, *, owned: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch the current jobs of `run`.

        Args:
            run: the run.
            owned: this process has started the job and may end it.
            clock: seconds of a monotonic clock.
        """
        self._run = run
        self._owned = owned
        self._clock = clock
        self._was_alive = True
        self._next_query = float("-inf")

    def is_alive(self) -> bool:
        """Return whether a job waits or runs, the last known state while Slurm does not answer."""
        now = self._clock()
        if now < self._next_query:
            return self._was_alive
        jobs = current_jobs(self._run)
        if any(job.uses_slurm for job in jobs):
            self._next_query = now + SLURM_POLL_S
        with contextlib.suppress(SchedulerUnavailable):
            self._was_alive = bool(alive_jobs(jobs))
        return self._was_alive

    def is_elsewhere(self) -> bool:
        """Return True for processes of another machine, whose end is visible in the journal alone."""
        jobs = current_jobs(self._run)
        return bool(jobs) and all(isinstance(job, LocalJob) and not job.is_here for job in jobs)

    def was_cancelled(self) -> bool:
        """Return whether Slurm reports a job as cancelled."""
        try:
            return any(state.is_cancelled for state in job_states(current_jobs(self._run)))
        except ClusterError:
            return False

    def stop(self) -> bool:
        """Stop a local job that this process owns; return False for one that continues without this process."""
        jobs = current_jobs(self._run)
        if not self._owned or not all(isinstance(job, LocalJob) for job in jobs):
            return False
        with contextlib.suppress(RunError):  # it has ended already
            stop_jobs(jobs)
        return True
