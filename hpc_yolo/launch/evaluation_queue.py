"""The process beside the tasks of a job that queues the jobs of `validate: aside`, on the host of the batch script.

Tasks may run in a container without Slurm's commands, and a slow sbatch must not delay a step. A job is queued when a
model waits and no such job waits or runs; it evaluates all models that are there, and those that come meanwhile.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import msgspec

from hpc_yolo.cluster import scheduler, slurm_command
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.core.files import make_directory, read_struct, write_atomic, write_struct
from hpc_yolo.launch.evaluation_script import evaluation_script
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.evaluations import results_by_epoch, waiting_epochs
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.spec.schema import Spec

POLL_S = 3.0
QUERY_S = 10.0  # between two questions to Slurm
MAX_USELESS_JOBS = 2  # in a row that end without a result


class EvaluationJob(msgspec.Struct, frozen=True, kw_only=True):
    """The job that was queued last to evaluate models of a run.

    Attributes:
        job_id: followed by @ and the cluster, where the spec names one.
        time: when it was queued, in seconds since 1970.
        num_results: number of results at that time.
    """

    job_id: str
    time: float
    num_results: int


def queue_evaluations(run: RunDirectory, spec: Spec, *, is_needed: Callable[[], bool]) -> None:
    """Queue jobs that evaluate the models of `run` until `is_needed` returns False, or jobs are of no use.

    A file marks that this process runs; without it the tasks evaluate the models themselves.
    """
    process = ProcessInfo.alone(current_environment())
    if process.job_id is None:
        raise RunError("queue-evaluations runs beside the tasks of a Slurm job", hint=f"hpc-yolo resume {run.word}")
    make_directory(run.evaluations)
    mark = run.evaluation_queue(process.job_id)
    write_atomic(mark, f"{socket.gethostname()} {os.getpid()}\n")
    queue = EvaluationQueue(run, spec, process.job_id)
    try:
        while is_needed() and queue.is_of_use:
            queue.look()
            time.sleep(POLL_S)
    finally:
        mark.unlink(missing_ok=True)


class EvaluationQueue:
    """Keeps at most one job that evaluates models of a run in the queue."""

    def __init__(
        self, run: RunDirectory, spec: Spec, training_job: str, clock: Callable[[], float] = time.time
    ) -> None:
        """Initialize the queue.

        Args:
            training_job: id of the job that trains.
            clock: returns seconds since 1970.
        """
        self._run, self._spec, self._clock = run, spec, clock
        self._training_job = training_job
        self._next_query = 0.0
        self._queued_here: str | None = None  # id of a job that this process has queued, until its end is counted
        self._num_useless = 0  # such jobs in a row that have ended without a result
        self.is_of_use = True

    def look(self) -> None:
        """Queue a job if a model waits and no such job is alive; `is_of_use` ends where Slurm refuses, or jobs fail."""
        if self._clock() < self._next_query or not waiting_epochs(self._run):
            return
        self._next_query = self._clock() + QUERY_S
        try:
            if self._is_job_alive():
                return
            if self._num_useless >= MAX_USELESS_JOBS:
                self._give_up(f"{self._num_useless} jobs have ended without a result, see {self._run.evaluations}")
                return
            self._queue()
        except SchedulerUnavailable:
            return
        except ClusterError as refusal:
            self._give_up(f"Slurm refuses the job: {refusal.message}")

    def _is_job_alive(self) -> bool:
        """Return whether the last job that evaluates waits or runs; if not, count it if it was of no use.

        Raises:
            SchedulerUnavailable: Slurm does not answer.
        """
        job = read_struct(self._run.evaluation_job, EvaluationJob)
        if job is None:
            return False
        state = scheduler.job_states([job.job_id]).get(job.job_id)
        if state is not None and state.is_alive:
            return True
        if job.job_id == self._queued_here:
            self._queued_here = None  # each job counts once
            has_results = len(results_by_epoch(self._run)) > job.num_results
            self._num_useless = 0 if has_results else self._num_useless + 1
        return False

    def _queue(self) -> None:
        """Queue a job.

        Raises:
            ClusterError: Slurm refuses it, or does not answer.
        """
        write_atomic(self._run.evaluation_script, evaluation_script(self._run, self._spec))
        own = [one for one in all_submissions(self._run) if one.job_id == self._training_job]
        run = slurm_command.with_sbatch_variables(own[-1].variables if own else {})
        job_id = scheduler.submit_script(self._run.evaluation_script, run=run)
        if (cluster := self._spec.cluster.slurm_cluster) is not None:
            job_id = f"{job_id}@{cluster}"
        num_results = len(results_by_epoch(self._run))
        job = EvaluationJob(job_id=job_id, time=self._clock(), num_results=num_results)
        write_struct(self._run.evaluation_job, job)
        self._queued_here = job_id
        print(f"hpc-yolo: job {job_id} evaluates the models that wait", flush=True)

    def _give_up(self, why: str) -> None:
        self.is_of_use = False
        print(f"hpc-yolo: validate: aside: {why}; the tasks evaluate the models themselves", flush=True)


def cancel_evaluation(run: RunDirectory) -> None:
    """Cancel the job that evaluates models of `run`, if one was queued; where Slurm refuses, it finds no models."""
    job = read_struct(run.evaluation_job, EvaluationJob)
    if job is None:
        return
    try:
        scheduler.cancel([job.job_id])
    except ClusterError:
        return
    run.evaluation_job.unlink(missing_ok=True)
