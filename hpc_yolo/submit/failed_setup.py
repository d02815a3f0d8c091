"""The end of a job whose cluster.setup failed before the tasks: reported in its log and in the run's journal."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hpc_yolo.causes import lost_attempt
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.errors import RunError
from hpc_yolo.lease import take_lease
from hpc_yolo.requeue import end_for_good, end_of_lost_attempt
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.lines import last_step
from hpc_yolo.spec.schema import Spec

REMEDY = "mend the line and submit again; one that may fail ends in || true"


def conclude_failed_setup(run: RunDirectory, spec: Spec, process: ProcessInfo, record: Path, status: int) -> int:
    """Report that the setup ended with `status` before the tasks; return the job's exit code.

    The job is not queued again: the same line would fail again.

    Args:
        record: the file in which the script kept the number of the line that ran; it is removed.
    """
    failure = describe_failure(spec.cluster.setup_lines, _read_number(record), status)
    print(f"hpc-yolo: {failure}; {REMEDY}", flush=True)
    record.unlink(missing_ok=True)
    if process.job_id is not None:
        end_for_good(run, process, spec.cluster)
    try:
        _write_end(run, process, failure)
    except (RunError, OSError) as error:
        print(f"hpc-yolo: not in the journal: {error}", flush=True)
    return status or 1


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


def _write_end(run: RunDirectory, process: ProcessInfo, failure: str) -> None:
    """Write the end of this attempt, which has no other event, and of one before it that left none.

    Raises:
        LeaseError: another attempt trains the run.
        RunError: the run directory cannot be written.
    """
    lease = take_lease(run, process)
    try:
        events = read_events(run.journal)
        if (lost := lost_attempt(events)) is not None:
            JournalWriter(run.journal, lost.attempt).write(end_of_lost_attempt(lost, events))
        ended = AttemptEnded(
            outcome=AttemptEnded.FAILED, epoch=0, step=last_step(events), detail=failure, cause=Cause.ERROR
        )
        JournalWriter(run.journal, lease.attempt).write(ended)
    finally:
        lease.release()
