"""The state of each stage of a run: one pure function of the run's end, the stages' records, and Slurm's job states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from hpc_yolo.cluster.local_process import machine_id, process_start
from hpc_yolo.cluster.pending_reasons import reason_text
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import DONE, FAILED, NOT_RUN, RUNNING, StageRecord
from hpc_yolo.runs.submissions import Submission
from hpc_yolo.spec.stages import Stage

WAITING, SKIPPED, LOST = "waiting", "skipped", "lost"
OPEN = (FAILED, LOST, NOT_RUN)  # states of a stage that can be submitted again alone


class StageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a stage after the newest end of its run.

    Attributes:
        when, where: see `Stage`.
        state: waiting (for the end of the run, or in the queue), running, done, failed, skipped (its `when` does not
            hold), not run, lost (its job ended without a record of it).
        detail: one line about the state.
        number: of tries after this end so far.
        began, ended: in seconds since 1970.
        log: file of its output, relative to the run directory.
    """

    name: str
    when: str
    where: str
    state: str
    detail: str = ""
    number: int = 0
    job_id: str | None = None
    began: float | None = None
    ended: float | None = None
    log: str = ""

    @property
    def is_under_way(self) -> bool:
        """True for a stage that waits or runs."""
        return self.state in (WAITING, RUNNING)

    @property
    def is_open(self) -> bool:
        """True for a stage that has ended without success, or never began."""
        return self.state in OPEN


def is_process_alive(record: StageRecord) -> bool:
    """Return True if the process that runs a stage lives, or is on another machine."""
    return record.machine != machine_id() or process_start(record.pid) == record.pid_start


@dataclass(frozen=True)
class StageFacts:
    """What is known about the stages of a run.

    Attributes:
        end: of the run; None while it goes on.
        records: of all stages.
        submissions: jobs of stages, oldest first.
        run_job: address of the job of the run that ended, in Slurm.
        jobs: Slurm's states by address, of the jobs that are known.
        is_process_alive: returns True for a record whose process lives on this machine, or cannot be looked at.
    """

    end: RunEnd | None
    records: Sequence[StageRecord] = ()
    submissions: Sequence[Submission] = ()
    run_job: str | None = None
    jobs: Mapping[str, JobState] = field(default_factory=dict)
    is_process_alive: Callable[[StageRecord], bool] = is_process_alive


def is_due(stage: Stage, end: RunEnd) -> bool:
    """Return True if `stage` follows an end such as `end`."""
    if end.is_by_person:
        return False
    return stage.when == "always" or (stage.when == "success") == end.is_finished


def stage_status(name: str, stage: Stage, facts: StageFacts) -> StageStatus:
    """Return the state of a stage."""
    status = StageStatus(name=name, when=stage.when, where=stage.where, state=WAITING)
    end = facts.end
    submission = next((one for one in reversed(facts.submissions) if one.stage == name), None)
    if submission is not None:
        status = msgspec.structs.replace(status, job_id=submission.job_id)
    if end is None or end.is_by_person:
        detail = "" if end is None else "the run was stopped; stages follow when it has been submitted again"
        return msgspec.structs.replace(status, detail=detail)
    if not is_due(stage, end):
        detail = "the run finished" if end.is_finished else f"the run ended otherwise: {end.cause or 'unknown cause'}"
        return msgspec.structs.replace(status, state=SKIPPED, detail=detail)
    tries = [record for record in facts.records if record.stage == name and record.end == end.attempt]
    record = max(tries, key=lambda one: one.number, default=None)
    if record is not None and (submission is None or submission.stage_number <= record.number):
        return _of_record(status, stage, record, facts)
    number = 0 if record is None else record.number
    return _of_job(msgspec.structs.replace(status, number=number), stage, submission, facts)


def _of_record(status: StageStatus, stage: Stage, record: StageRecord, facts: StageFacts) -> StageStatus:
    """Return the state of a stage that has begun."""
    state, detail = record.state, record.detail
    if state == RUNNING:
        job = None if record.job_id is None else _job_of(record.job_id, facts)
        if job is not None and job.is_waiting:
            state, detail = WAITING, f"job {record.job_id} was interrupted and is queued again"
        elif job is not None and not job.is_alive:
            state, detail = LOST, f"job {record.job_id} ended before it: {job.state}"
        elif record.job_id is None and not facts.is_process_alive(record):
            state, detail = LOST, f"its process on {record.host} ended before it"
    elif state == DONE and record.step != stage.step:
        state, detail = NOT_RUN, "its options have changed since it was run"
    return msgspec.structs.replace(
        status,
        state=state,
        detail=detail,
        number=record.number,
        job_id=record.job_id,
        began=record.began,
        ended=record.ended,
        log=record.log,
    )


def _of_job(status: StageStatus, stage: Stage, submission: Submission | None, facts: StageFacts) -> StageStatus:
    """Return the state of a stage that has not begun since the run ended, or since it was submitted again."""
    if submission is not None:
        job = facts.jobs.get(submission.address)
        if job is None or job.is_alive:
            reason = "" if job is None or not job.reason else f": {reason_text(job.reason)}"
            return msgspec.structs.replace(status, detail=f"queued as job {submission.job_id}{reason}")
        detail = f"job {submission.job_id} ended before it: {job.state}"
        return msgspec.structs.replace(status, state=LOST, detail=detail)
    if facts.run_job is None:
        return msgspec.structs.replace(status, state=NOT_RUN, detail="the process that followed the run has ended")
    job = facts.jobs.get(facts.run_job)
    if job is None or job.is_alive:
        return msgspec.structs.replace(status, detail="the job of the run has not ended yet")
    missing = "has no job" if stage.has_own_job else f"job {facts.run_job} ended before it: {job.state}"
    return msgspec.structs.replace(status, state=LOST, detail=missing)


def _job_of(job_id: str, facts: StageFacts) -> JobState | None:
    """Return Slurm's state of the job of a record, which may be of another cluster of the site."""
    found = (state for address, state in facts.jobs.items() if address.partition("@")[0] == job_id)
    return next(found, None)
