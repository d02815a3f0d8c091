"""What the trials of a sweep are doing: their tasks in Slurm, and what their journals say."""

from __future__ import annotations

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.run_end import recorded_end
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.runs.sweep import SweepDirectory, trial_name


def task_states(sweep: SweepDirectory) -> dict[str, JobState]:
    """Return trial -> state of its task of an array, for tasks that wait or run.

    Raises:
        SchedulerUnavailable: Slurm does not answer.
    """
    arrays = {
        submission.address: (submission.job_id, int(array.name.rpartition("-")[2]))
        for array in sweep.arrays()
        for submission in all_submissions(array)
        if submission.executor == "slurm"
    }
    if not arrays:
        return {}
    numbers = dict(arrays.values())
    found = {}
    for address, state in scheduler.job_states(arrays).items():
        job_id, _, task = address.partition("@")[0].partition("_")
        if job_id in numbers and task.isdecimal() and state.is_alive:
            found[trial_name(numbers[job_id], int(task))] = state
    return found


def is_finished(run: RunDirectory) -> bool:
    """Return True if the training of `run` has ended with its last step."""
    if not run.journal.exists():
        return False
    end = recorded_end(Attempts(read_events(run.journal)))
    return end is not None and end.is_finished
