"""The command of a stage's own job: it runs the stage if the run has ended, or queues it again behind the run."""

from __future__ import annotations

import time

from hpc_yolo.cluster.jobs import current_jobs
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import SchedulerUnavailable
from hpc_yolo.launch.run_stages import job_end, run_stage
from hpc_yolo.launch.stages import queue_stages, stage_job
from hpc_yolo.resilience.run_over import end_of_run
from hpc_yolo.resilience.stage_state import is_due
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import DONE
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stages import named_stages

PATIENCE_S, POLL_S = 600.0, 10.0  # for a controller that does not answer


def run_stage_in_job(
    run: RunDirectory, spec: Spec, name: str, number: int, process: ProcessInfo, *, refusal: str = ""
) -> int:
    """Run the stage `name` in its own job, if it is due; return the job's exit code.

    Args:
        number: of the try.
        refusal: why it cannot run; that is recorded.

    Raises:
        SchedulerUnavailable: Slurm does not answer for minutes, and the journal does not show whether the run ended.
        ClusterError: the run goes on, and Slurm refuses to queue the stage behind it.
    """
    stage = named_stages(spec.then).get(name)
    if stage is None:
        return _leave(f"the spec of {run.path} no longer has it")
    end = _end_of_run(run)
    if end is None:
        after = [job.id for job in current_jobs(run)]
        (again,) = queue_stages(run, [stage_job(run, spec, name, number)], after)
        return _leave(f"the run goes on, so it is queued again, as job {again.job_id}")
    if end.is_by_person:
        return _leave("the run was stopped by a person; stages follow when it has been submitted again")
    if not is_due(stage, end):
        return _leave(f"the run {'finished' if end.is_finished else 'did not finish'}; the stage is for {stage.when}")
    log = run.stage_log(name, process.job_id or "local")
    limit = job_end(process)
    record = run_stage(run, spec, name, end, process, number=number, log=log, deadline=limit, refusal=refusal)
    return 0 if record is None or record.state == DONE else 1


def _leave(message: str) -> int:
    print(f"hpc-yolo: nothing to do: {message}", flush=True)
    return 0


def _end_of_run(run: RunDirectory) -> RunEnd | None:
    """Return `end_of_run`, after a while if Slurm does not answer at once."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return end_of_run(run)
        except SchedulerUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
