"""The end of a job whose cluster.setup failed before the tasks: reported in its log and in the run's journal."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.resilience.attempt_end import is_taken_by_slurm, lost_attempt
from hpc_yolo.resilience.lease import take_lease
from hpc_yolo.resilience.requeue import end_for_good, end_of_lost_attempt, job_of
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import last_step
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import ClusterSpec

REMEDY = "mend the line and submit again; one that may fail ends in || true"


def conclude_failed_setup(
    run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo, record: Path, status: int
) -> int:
    """Report that the setup ended with `status` before the tasks; return the job's exit code.

    The job is not queued again, since the same line would fail again; but where Slurm ended the setup, because it
    preempts the job or somebody cancels it, that is the cause.

    Args:
        record: the file in which the script kept the number of the line that ran; it is removed.
    """
    detail = describe_failure(cluster.setup_lines, _read_number(record), status)
    record.unlink(missing_ok=True)
    cause = _cause(process, status)
    requeued = cause == Cause.PREEMPTED
    if cause == Cause.ERROR:
        outcome, remedy = AttemptEnded.FAILED, f"; {REMEDY}"
    else:
        outcome, remedy = AttemptEnded.STOPPED, f"; {cause}"
    print(f"hpc-yolo: {detail}{remedy}", flush=True)
    if process.job_id is not None and not requeued:
        end_for_good(run, process, cluster)
    ended = AttemptEnded(outcome=outcome, epoch=0, step=0, detail=detail, cause=cause, requeued=requeued)
    try:
        _write_end(run, process, ended)
    except (RunError, OSError) as error:
        print(f"hpc-yolo: not in the journal: {error}", flush=True)
    return status or 1


def _cause(process: ProcessInfo, status: int) -> str:
    """Return why the setup ended with `status`: by Slurm, where that ends the job and a signal came, or by itself."""
    job = job_of(process) if ExitStatus(status).is_signal else None
    if is_taken_by_slurm(job, process.attempt):
        return Cause.PREEMPTED
    return Cause.ERROR if job is None or job.is_running else Cause.CANCELLED


def describe_failure(setup: Sequence[str], number: int | None, status: int) -> str:
    """Return number, text and exit status of the setup line that ended the job.

    Args:
        number: of the line, from 1; None where it is not known.
    """
    if number is None or not 1 <= number <= len(setup):
        return f"cluster.setup ended the job with exit status {status}"
    first, text = whole_line(setup, number)
    how = f"failed with exit status {status}" if status else "ended the job before its tasks"
    return f"cluster.setup: line {first} {how}: {text}"


def whole_line(setup: Sequence[str], number: int) -> tuple[int, str]:
    """Return (number of its first part, text) of the line of which line `number` is a part, by backslashes."""
    first = last = number - 1
    while first > 0 and setup[first - 1].endswith("\\"):
        first -= 1
    while last + 1 < len(setup) and setup[last].endswith("\\"):
        last += 1
    return first + 1, " ".join(line.removesuffix("\\").strip() for line in setup[first : last + 1])


def _read_number(record: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(record.read_text())
    return None


def _write_end(run: RunDirectory, process: ProcessInfo, ended: AttemptEnded) -> None:
    """Write that this attempt has `ended`, which has no other event, and of one before it that left none.

    Raises:
        LeaseError: another attempt trains the run.
        RunError: the run directory cannot be written.
    """
    lease = take_lease(run, process)
    try:
        events = read_events(run.journal)
        if (lost := lost_attempt(events)) is not None:
            JournalWriter(run.journal, lost.attempt).write(end_of_lost_attempt(lost, events))
        JournalWriter(run.journal, lease.attempt).write(msgspec.structs.replace(ended, step=last_step(events)))
    finally:
        lease.release()
