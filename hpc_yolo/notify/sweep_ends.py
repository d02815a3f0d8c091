"""Messages about a sweep: one when all trials have ended, and one about the first that fails; its trials send none.

The records are in the directory of the sweep. Each trial that ends leaves one there, so that the last one needs no
other journals to find out that it is the last.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from hpc_yolo.monitor.run_record import RunRecord
from hpc_yolo.notify.message import end_message, problem_message
from hpc_yolo.notify.record import read_record
from hpc_yolo.notify.send import send_once
from hpc_yolo.notify.sweep_message import SweepFacts, sweep_message
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.notices import SENT, Notice, claim_notice, notice_keys, problem_key
from hpc_yolo.runs.run_end import RunEnd, recorded_end
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.notify import FAILED, FINISHED, PROBLEM, NotifySpec


def notify_trial_end(
    sweep: SweepDirectory,
    run: RunDirectory,
    notify: NotifySpec,
    end: RunEnd,
    environ: Mapping[str, str],
    *,
    job_id: str | None,
) -> None:
    """Send what the `end` of the trial `run` amounts to: the first failure, and the end of the sweep.

    Args:
        job_id: of the job of the trial.

    Raises:
        RunError: another version of this program has written the list of trials.
        OSError: the directory of the sweep cannot be written.
    """
    place = RunDirectory(sweep.path)
    if not end.is_finished and not end.is_by_person:
        _notify_failure(place, run, notify, end, environ, job_id)
    mark = Notice(key=f"trial-{run.name}", number=end.attempt, event="", subject="", state=SENT, time=time.time())
    claim_notice(place, mark)
    trials = sweep.trials()
    if not {f"trial-{trial.name}" for trial in trials} <= notice_keys(place):
        return
    submitted = max((one.time for array in sweep.arrays() for one in all_submissions(array)), default=0.0)
    facts = SweepFacts()
    for trial in trials:
        record = read_record(sweep.trial(trial.name))
        own = end if trial.name == run.name else recorded_end(record.attempts)
        if own is None or own.is_by_person or (not own.is_finished and record.last_time < submitted):
            return  # it trains or waits again, or a person may submit it again
        values = trial.values or sweep.drawn_values(trial.name)
        facts.add(trial.name, record, values, attempt=own.attempt, is_finished=own.is_finished)
    send_once(
        place,
        notify,
        f"end-{len(trials)}-{facts.sum_of_attempts}",  # another end after a later submission
        lambda: sweep_message(sweep, facts),
        environ,
        event=FAILED if facts.num_failed else FINISHED,
        job_id=job_id,
    )


def _notify_failure(
    place: RunDirectory,
    run: RunDirectory,
    notify: NotifySpec,
    end: RunEnd,
    environ: Mapping[str, str],
    job_id: str | None,
) -> None:
    record: RunRecord = read_record(run)
    error = end_message(run, record, end).error
    problem = f"trial {run.name} failed: {end.cause}"
    send_once(
        place,
        notify,
        problem_key("trial-failed"),
        lambda: problem_message(run, record, problem, [f"hpc-yolo logs {run.word}"], error),
        environ,
        event=PROBLEM,
        job_id=job_id,
    )
