"""The record of a run for a message, and the directory in which its messages are recorded."""

from __future__ import annotations

from hpc_yolo.monitor.run_record import RecordReader, RunRecord
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.sweep import sweep_of


def read_record(run: RunDirectory) -> RunRecord:
    """Return the record of the journal of `run`; an empty one where that cannot be read."""
    reader = RecordReader(run)
    try:
        reader.read()
    except OSError:
        return RunRecord()
    return reader.record


def place_of_notices(run: RunDirectory) -> RunDirectory:
    """Return the directory that has the records of messages about `run`: of a trial that of its sweep."""
    sweep = sweep_of(run)
    return run if sweep is None else RunDirectory(sweep.path)


def shown_name(run: RunDirectory) -> str:
    """Return the name of a run; of a trial with that of its sweep."""
    sweep = sweep_of(run)
    return run.name if sweep is None else f"{sweep.name}/{run.name}"
