"""Actions on a sweep."""

from __future__ import annotations

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.jobs import Job, alive_jobs, current_jobs, job_of, stop_jobs
from hpc_yolo.cluster.queueing import adopt_lost_jobs
from hpc_yolo.core.errors import RunError
from hpc_yolo.launch.actions import cancel_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.runs.sweep import SweepDirectory


def cancel_sweep(sweep: SweepDirectory) -> str:
    """Cancel all trials of `sweep` that wait or run and return a sentence about it; those that train save their state.

    Raises:
        RunError: none waits or runs, or one cannot be ended from this machine.
        ClusterError: Slurm refuses.
    """
    RunDirectory(sweep.path).require_own()
    for array in sweep.arrays():
        adopt_lost_jobs(array)
    runs = [sweep.trial(trial.name) for trial in sweep.trials()]
    jobs = [*alive_jobs([job for run in runs for job in current_jobs(run)]), *_alive_arrays(sweep)]
    if not jobs:
        raise RunError(f"{sweep.name}: no trial waits or runs", hint=f"hpc-yolo sweep status {sweep.word}")
    stop_jobs(jobs)
    return f"{sweep.name}: cancelled {', '.join(dict.fromkeys(job.name for job in jobs))}"


def cancel_run_or_sweep(run: RunDirectory) -> str:
    """Cancel the current jobs of `run`, or of all trials of the sweep in its directory; return a sentence about it.

    Raises:
        RunError: no job waits or runs, or one cannot be ended from this machine.
        ClusterError: Slurm refuses.
    """
    sweep = SweepDirectory(run.path)
    return cancel_sweep(sweep) if sweep.exists else cancel_run(run)


def _alive_arrays(sweep: SweepDirectory) -> list[Job]:
    """Return the arrays of which a task waits or runs."""
    arrays = [job_of(array, submission) for array in sweep.arrays() for submission in all_submissions(array)]
    slurm = [job for job in arrays if job.uses_slurm]
    states = scheduler.job_states([job.address for job in slurm]) if slurm else {}
    alive = {job_id.partition("_")[0] for job_id, state in states.items() if state.is_alive}
    return [job for job in slurm if job.id in alive]
