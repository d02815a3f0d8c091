"""The end of a job whose cluster.setup failed before the tasks, reported in its log and in the journal of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.sbatch import dependent_exports
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.resilience.attempt_end import AttemptFacts, attempt_end
from hpc_yolo.resilience.lease import take_lease
from hpc_yolo.resilience.lost_attempt import end_of_lost_attempt
from hpc_yolo.resilience.requeue import carry_out, own_job_record
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import ClusterSpec

REMEDY = "fix the line and submit again; append || true to a line that may fail"


def conclude_failed_setup(
    run: RunDirectory, cluster: ClusterSpec, process: ProcessInfo, record: Path, status: int
) -> int:
    """Report that the setup ended with `status` before the tasks; return the exit code of the job.

    The job is not requeued, since the same line would fail again. Where Slurm ended the setup because of
    preemption, the time limit or a cancellation, that is the cause.

    Args:
        record: file with the number of the setup line that ran; it is removed.
    """
    detail = describe_failure(cluster, read_number(record), status)
    record.unlink(missing_ok=True)
    attempts = Attempts()
    with contextlib.suppress(OSError, RunError):
        attempts = Attempts(read_events(run.journal))
    facts = AttemptFacts(
        limits=cluster,
        attempts=attempts,
        restart=process.attempt,
        job=own_job_record(process) if ExitStatus(status).is_signal else None,
        setup_status=ExitStatus(status),
    )
    end = attempt_end(facts)
    print(f"hpc-yolo: {detail}; {REMEDY if end.cause == Cause.ERROR else end.cause}", flush=True)
    ended = end.event(attempts.last_step, detail)
    number = write_end(run, process, cluster, ended)

    def write(refused: AttemptEnded) -> None:
        if number is not None:
            JournalWriter(run.journal, number).write(refused)

    if process.job_id is not None:
        done = carry_out(end, ended, run, process, cluster, attempts=attempts, write=write)
        if done:
            print(f"hpc-yolo: {done}", flush=True)
    return status or 1


def describe_failure(cluster: ClusterSpec, number: int | None, status: int) -> str:
    """Return a message with number, text and exit status of the line that ended the job before its tasks.

    Args:
        cluster: its modules, setup and environment are the lines.
        number: of the line, from 1; None where it is unknown.
        status: exit status of the lines.
    """
    modules, setup, exports = cluster.module_lines, cluster.setup_lines, dependent_exports(cluster)
    if number is None or not 1 <= number <= len(modules) + len(setup) + len(exports):
        return f"cluster.setup ended the job with exit status {status}"
    how = f"failed with exit status {status}" if status else "ended the job before its tasks"
    if number <= len(modules):
        return f"cluster.modules {how}: {modules[number - 1]}"
    number -= len(modules)
    if number > len(setup):
        return f"cluster.env {how}: {exports[number - len(setup) - 1]}"
    first, text = whole_line(setup, number)
    return f"cluster.setup: line {first} {how}: {text}"


def whole_line(setup: Sequence[str], number: int) -> tuple[int, str]:
    """Return (number of the first line, text) of the continued line of which line `number` is a part."""
    first = last = number - 1
    while first > 0 and setup[first - 1].endswith("\\"):
        first -= 1
    while last + 1 < len(setup) and setup[last].endswith("\\"):
        last += 1
    return first + 1, " ".join(line.removesuffix("\\").strip() for line in setup[first : last + 1])


def read_number(record: Path) -> int | None:
    """Return the number of the setup line that ran, from its `record`; None where it is unknown."""
    with contextlib.suppress(OSError, ValueError):
        return int(record.read_text())
    return None


def write_end(run: RunDirectory, process: ProcessInfo, cluster: ClusterSpec, ended: AttemptEnded) -> int | None:
    """Write the end of an attempt whose tasks do not start, its only event, and that of an earlier one without one.

    Return the number of this attempt; None where the journal is not writable, or another attempt trains the run.
    """
    try:
        lease = take_lease(run, process)
        try:
            attempts = Attempts(read_events(run.journal))
            if (lost := attempts.lost) is not None:
                _, end_of_lost = end_of_lost_attempt(lost, attempts, cluster)
                JournalWriter(run.journal, lost.attempt).write(end_of_lost)
            JournalWriter(run.journal, lease.attempt).write(ended)
        finally:
            lease.release()
    except (RunError, OSError) as error:
        print(f"hpc-yolo: not in the journal: {error}", flush=True)
        return None
    return lease.attempt
