"""Records of the stages that ran after the training of a run: one file a try, written by the process that runs it.

`stages/<name>.<end>.<number>.json`: `end` is the attempt with which the run ended, `number` counts the tries after it.
The file is created exclusively, so that of several processes that would run the same stage only one does.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from hpc_yolo.core.files import create_exclusive, make_directory, read_struct, write_struct
from hpc_yolo.runs.directory import RunDirectory

RUNNING, DONE, FAILED, NOT_RUN = "running", "done", "failed", "not run"
_NAME = re.compile(r"(?P<stage>[a-z]+(-\d+)?)\.(?P<end>\d+)\.(?P<number>\d+)\.json")


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A stage that was run, or could not be, after one end of the run.

    Attributes:
        end: attempt with which the run ended.
        number: of the try after this end, from 1.
        state: running, done, failed, or not run.
        detail: a message about the state.
        began, ended: in seconds since 1970.
        job_id: Slurm job in which it runs; None for a process on this machine.
        restart: number of that job's start, from 1.
        machine: see `machine_id`; with `pid` and `pid_start` the process that runs it.
        log: file of its output, relative to the run directory; "" for the terminal.
        step: the command of the stage, to detect that the spec has another one now.
    """

    stage: str
    end: int
    number: int
    state: str
    detail: str = ""
    began: float
    ended: float | None = None
    job_id: str | None = None
    restart: int = 1
    machine: str = ""
    host: str = ""
    pid: int = 0
    pid_start: int | None = None
    exit_code: int | None = None
    log: str = ""
    step: str = ""

    @property
    def key(self) -> tuple[int, int]:
        """Order of the tries of a stage."""
        return self.end, self.number


def claim_stage(run: RunDirectory, record: StageRecord) -> bool:
    """Write `record` if this try of the stage has none; return False where another process has it.

    A job that Slurm has started again takes over its own record if the stage did not come to its end.

    Raises:
        OSError: it cannot be written.
    """
    make_directory(run.stages)
    path = _path(run, record)
    if create_exclusive(path, msgspec.json.encode(record) + b"\n"):
        return True
    found = read_struct(path, StageRecord)
    is_own = found is not None and record.job_id is not None and found.job_id == record.job_id
    if found is None or not is_own or found.ended is not None or found.restart >= record.restart:
        return False
    write_struct(path, record)
    return True


def write_stage(run: RunDirectory, record: StageRecord) -> None:
    """Replace the record of a stage by its claimant's newer one.

    Raises:
        OSError: it cannot be written.
    """
    write_struct(_path(run, record), record)


def read_stages(run: RunDirectory) -> list[StageRecord]:
    """Return all records, by stage, end and number; files that cannot be read are skipped."""
    try:
        names = sorted(os.listdir(run.stages))  # noqa: PTH208, called for every run of a screen
    except OSError:
        return []
    found = (read_struct(run.stages / name, StageRecord) for name in names if _NAME.fullmatch(name))
    return sorted((record for record in found if record is not None), key=lambda record: (record.stage, *record.key))


def _path(run: RunDirectory, record: StageRecord) -> Path:
    return run.stages / f"{record.stage}.{record.end}.{record.number}.json"
