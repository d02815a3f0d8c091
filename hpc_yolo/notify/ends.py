"""Messages about the end of a run and about its stages, sent by whichever process brings the end about or sees it.

These are the last command of a batch script (`after-job`), the process that follows a run on this machine, a task that
trains without Slurm, and the job of a stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec

from hpc_yolo.core.errors import RunError
from hpc_yolo.notify.message import end_message, problem_message
from hpc_yolo.notify.record import place_of_notices, read_record
from hpc_yolo.notify.send import send_once
from hpc_yolo.notify.sweep_ends import notify_trial_end
from hpc_yolo.resilience.lease import last_holder
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.notices import FAILED as NOTICE_FAILED
from hpc_yolo.runs.notices import Notice, end_key, problem_key, read_notices
from hpc_yolo.runs.run_end import RunEnd, recorded_end
from hpc_yolo.runs.stages import FAILED as STAGE_FAILED
from hpc_yolo.runs.stages import NOT_RUN, StageRecord, read_stages
from hpc_yolo.runs.sweep import sweep_of
from hpc_yolo.spec.notify import CANCELLED, FAILED, FINISHED, PROBLEM, NotifySpec


def notify_end(
    run: RunDirectory, notify: NotifySpec, end: RunEnd, environ: Mapping[str, str], *, job_id: str | None
) -> Notice | None:
    """Send the message about the `end` of `run`, if the spec asks for it and no other process has sent it.

    Args:
        job_id: of the job that has ended; for tasks on this machine that of submitit.

    Returns:
        The record of the message; None where none is sent here, and for a trial of a sweep.

    Raises:
        RunError, OSError: the directory of a sweep cannot be used.
    """
    if (sweep := sweep_of(run)) is not None:
        notify_trial_end(sweep, run, notify, end, environ, job_id=job_id)
        return None
    event = FINISHED if end.is_finished else CANCELLED if end.is_by_person else FAILED
    holder = last_holder(run)
    has_attempt = holder is None or job_id is None or holder.job_id == job_id
    key = end_key(end.attempt, None if has_attempt and end.attempt else job_id)
    return send_once(
        run, notify, key, lambda: end_message(run, read_record(run), end), environ, event=event, job_id=job_id
    )


def notify_stages(run: RunDirectory, notify: NotifySpec, environ: Mapping[str, str], *, job_id: str | None) -> None:
    """Send a message about each stage after the last end that failed or could not run, and is not reported yet."""
    stages = read_stages(run)
    last = max((stage.end for stage in stages), default=0)
    for stage in stages:
        if stage.end == last and stage.state in (STAGE_FAILED, NOT_RUN):
            _notify_stage(run, notify, stage, environ, job_id)


def _notify_stage(
    run: RunDirectory, notify: NotifySpec, stage: StageRecord, environ: Mapping[str, str], job_id: str | None
) -> None:
    problem = f"stage {stage.stage} {stage.state}: {stage.detail}"
    place = place_of_notices(run)
    once = f"stage-{stage.stage}"  # in a sweep, once in all trials
    send_once(
        place,
        notify,
        problem_key(once if place != run else f"{once}-{stage.end}-{stage.number}"),
        lambda: problem_message(run, read_record(run), problem, [f"hpc-yolo resume {run.word}"]),
        environ,
        event=PROBLEM,
        job_id=job_id,
    )


def notify_followed_end(run: RunDirectory, notify: NotifySpec, environ: Mapping[str, str]) -> None:
    """Send what the job of a run that has ended could not send: its nodes may have no network, or have failed.

    Called where a person follows the run, on the submit host.
    """
    with contextlib.suppress(RunError, OSError):
        end = recorded_end(Attempts(read_events(run.journal)))
        if end is None or notify_end(run, notify, end, environ, job_id=None) is not None:
            return
        tries = [notice for notice in read_notices(run) if notice.key == end_key(end.attempt, None)]
        last = max(tries, key=lambda notice: notice.number, default=None)
        if last is None or last.state != NOTICE_FAILED:
            return
        done = {way: None for way, why in last.results.items() if not why}
        send_once(
            run,
            msgspec.structs.replace(notify, **done),
            last.key,
            lambda: end_message(run, read_record(run), end),
            environ,
            event=last.event,
            number=last.number + 1,
        )
