"""Actions on an existing run: cancel its job, put it back into the queue, remove its directory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence

from hpc_yolo.cluster.jobs import (
    Job,
    alive_jobs,
    current_jobs,
    require_own_cluster,
    slurm_job_state,
    stage_jobs,
    stop_jobs,
)
from hpc_yolo.cluster.local_process import machine_id, process_start
from hpc_yolo.cluster.queueing import adopt_lost_jobs
from hpc_yolo.core.errors import RunError
from hpc_yolo.launch.evaluation_queue import cancel_evaluation
from hpc_yolo.resilience.lease import Holder, last_holder
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.stages import RUNNING, StageRecord, read_stages
from hpc_yolo.runs.submissions import address_of

WATCH_S = 5.0  # the holder of a run's lease sends a heartbeat every two seconds


def cancel_run(run: RunDirectory) -> str:
    """Cancel the current jobs of `run` and return a sentence about it; a job that trains saves its state first.

    Raises:
        RunError: no job waits or runs, or it cannot be ended from this machine.
        ClusterError: Slurm refuses.
    """
    alive = _alive_jobs(run, also=stage_jobs(run))
    stop_jobs(alive)
    cancel_evaluation(run)
    return f"{run.name}: cancelled {', '.join(job.name for job in alive)}; training saves its state before it ends"


def requeue_run(run: RunDirectory) -> str:
    """Put the running job of `run` back into the queue and return a sentence about it; it saves its state first.

    Raises:
        RunError: no job of Slurm waits or runs.
        ClusterError: Slurm refuses.
    """
    job = _alive_jobs(run)[0]
    job.requeue()
    return f"{run.name}: {job.name} saves its state, ends and is queued again"


def remove_run(run: RunDirectory, *, watch_s: float = WATCH_S) -> None:
    """Remove the run directory with all of its contents, checkpoints included. It is renamed first.

    Args:
        watch_s: how long to watch for heartbeats where nothing else shows whether the run is being trained.

    Raises:
        RunError: it is not a run directory, or the run may be in training.
        SchedulerUnavailable: Slurm does not answer, so the state of the job is not known.
    """
    if run.path.is_symlink() or not run.exists:
        raise RunError(f"{run.path} is not a run directory", hint="hpc-yolo list shows all runs")
    run.require_own()
    adopt_lost_jobs(run)
    if alive := alive_jobs([*current_jobs(run), *stage_jobs(run)]):
        raise RunError(
            f"{run.name}: {alive[0].name} is queued or running", hint=f"cancel it first: hpc-yolo cancel {run.word}"
        )
    holder = last_holder(run)
    if holder is not None and _may_live(run, holder, watch_s):
        raise RunError(f"{run.name}: {holder.name} is training it", hint="stop it first")
    _require_no_stage_here(run)
    cancel_evaluation(run)
    doomed = run.path.with_name(f".{run.path.name}.removed-{os.getpid()}")
    try:
        run.path.rename(doomed)  # in one step, so that no other process finds half of it
        shutil.rmtree(doomed)
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be removed: {error.strerror}") from error


def _alive_jobs(run: RunDirectory, also: Sequence[Job] = ()) -> list[Job]:
    """Return the jobs of the user's own `run`, and of `also`, that wait or run, the first to run first; at least one.

    Raises:
        RunError: there is none, the run belongs to another user, or its jobs are those of another cluster.
        SchedulerUnavailable: Slurm does not answer.
    """
    run.require_own()
    adopt_lost_jobs(run)
    jobs = current_jobs(run)
    if not jobs:
        raise RunError(f"{run.path}: no job was submitted", hint="hpc-yolo list shows all runs")
    require_own_cluster([*jobs, *also])
    alive = alive_jobs([*jobs, *also])
    if not alive:
        _require_no_stage_here(run)
        ended = f"{run.name}: {jobs[-1].name} has already ended"
        raise RunError(ended, hint=f"continue the run with: hpc-yolo resume {run.word}")
    return alive


def _require_no_stage_here(run: RunDirectory) -> None:
    """Check that no process of this machine runs a stage of `run`, outside of Slurm's jobs.

    Raises:
        RunError: one does.
    """
    if stage := next((stage for stage in read_stages(run) if _runs_here(stage)), None):
        raise RunError(f"{run.name}: its stage {stage.stage} runs on this machine", hint=f"end it: kill {stage.pid}")


def _runs_here(stage: StageRecord) -> bool:
    """Return True for a stage that a process of this machine runs, outside of Slurm's jobs."""
    is_own = stage.state == RUNNING and stage.job_id is None and stage.machine == machine_id()
    return is_own and process_start(stage.pid) == stage.pid_start


def _may_live(run: RunDirectory, holder: Holder, watch_s: float) -> bool:
    """Return whether the attempt that holds the run's lease may still write.

    Raises:
        SchedulerUnavailable: Slurm does not answer.
    """
    if holder.released:
        return False
    if holder.machine == machine_id() and holder.pid_start is not None:
        return process_start(holder.pid) == holder.pid_start
    if holder.job_id is not None and holder.cluster is not None:
        state = slurm_job_state(address_of(run, holder.job_id))
        if state is not None:
            return state.is_alive
    time.sleep(watch_s)
    now = last_holder(run)
    return now is not None and not now.released and now.heartbeats != holder.heartbeats
