"""The directory of a sweep. Its trials are run directories in it; each file has one writer, named beside it.

<output>/<name>/
|-- sweep.yaml               submit: the resolved spec with its section `sweep`
|-- sweep.json               submit: the trials, their names and values
|-- submit.lock              submit: held by the one that writes the above
|-- array-1/                 submit: an array of jobs: its script, its job; Slurm: files of the setup
|-- 1-0007/                  the run directory of task 7 of that array, made when the task starts; its jobs/ by submit;
|                            values.json: what a search has drawn for it
|-- notices/                 notify: records of messages, and of the trials that have ended
|-- study.journal            Optuna: what `search: {method: tpe}` knows
`-- labels-<split>-<hash>.npz   the labels of a dataset whose directory is not writable, for all trials
"""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import read_struct, write_struct
from hpc_yolo.runs.directory import RunDirectory

TASK_VARIABLE = "SLURM_ARRAY_TASK_ID"
TASK_DIGITS = 4
_ARRAY = re.compile(r"array-(?P<number>[1-9][0-9]*)")


class TrialRecord(msgspec.Struct, frozen=True):
    """A trial: the name of its run directory, its values by dotted field, and what identifies the run."""

    name: str
    values: dict[str, Any]
    key: str


class SweepRecord(msgspec.Struct, frozen=True):
    """The trials of a sweep in the order of their submission."""

    trials: list[TrialRecord]


class DrawnValues(msgspec.Struct, frozen=True):
    """Values of a trial by dotted field."""

    values: dict[str, Any]


@dataclass(frozen=True)
class SweepDirectory:
    """The paths of a sweep. Making the object touches nothing on disk."""

    path: Path

    @property
    def word(self) -> str:
        """The path as one word of a shell, for commands in messages."""
        return shlex.quote(str(self.path))

    @property
    def name(self) -> str:
        """The name of the sweep."""
        return self.path.name

    @property
    def spec(self) -> Path:
        """The resolved spec with its section `sweep`."""
        return self.path / "sweep.yaml"

    @property
    def lock(self) -> Path:
        """The file that a submission locks."""
        return self.path / "submit.lock"

    @property
    def version(self) -> tuple[int, int] | None:
        """A value that each submission changes; None where there is no sweep."""
        try:
            status = self._record.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    @property
    def _record(self) -> Path:
        return self.path / "sweep.json"

    @property
    def exists(self) -> bool:
        """True for the directory of a sweep that this user may read."""
        try:
            return self._record.is_file()
        except OSError:
            return False

    def trials(self) -> list[TrialRecord]:
        """Return the trials in the order of their submission; [] where there is no sweep.

        Raises:
            RunError: another version of this program has written the record.
        """
        record = read_struct(self._record, SweepRecord)
        if record is None and self.exists:
            raise RunError(f"{self._record}: cannot be read", hint="submit the sweep under another name")
        return [] if record is None else record.trials

    def write_trials(self, trials: list[TrialRecord]) -> None:
        """Replace the list of trials."""
        write_struct(self._record, SweepRecord(trials))

    def remove(self) -> None:
        """Remove spec and list of trials: the directory is no sweep then."""
        self._record.unlink(missing_ok=True)
        self.spec.unlink(missing_ok=True)

    def trial(self, name: str) -> RunDirectory:
        """Return the run directory of a trial."""
        return RunDirectory(self.path / name)

    def drawn_values(self, name: str) -> dict[str, Any]:
        """Return the values that a search has drawn for a trial; {} for one that has not begun, or has given ones."""
        found = read_struct(self._drawn(name), DrawnValues)
        return {} if found is None else found.values

    def write_drawn_values(self, name: str, values: Mapping[str, Any]) -> None:
        """Record the values that a search has drawn for a trial."""
        write_struct(self._drawn(name), DrawnValues(dict(values)))

    def _drawn(self, name: str) -> Path:
        return self.path / name / "values.json"

    def array(self, number: int) -> RunDirectory:
        """Return the directory of an array of jobs, from 1, which has the paths of a run that jobs need."""
        return RunDirectory(self.path / f"array-{number}")

    def arrays(self) -> list[RunDirectory]:
        """Return the directories of all arrays, the first one first."""
        numbers = {array_and_task(trial.name)[0] for trial in self.trials()}
        return [self.array(number) for number in sorted(numbers)]


def trial_name(array: int, task: int) -> str:
    """Return the name of the trial that task `task` of an array is."""
    return f"{array}-{task:0{TASK_DIGITS}d}"


def array_and_task(name: str) -> tuple[int, int]:
    """Return the numbers of the array and of its task from the name of a trial."""
    array, _, task = name.partition("-")
    return int(array), int(task)


def sweep_of(run: RunDirectory) -> SweepDirectory | None:
    """Return the sweep that `run` is a trial of; None for any other run."""
    sweep = SweepDirectory(run.path.parent)
    return sweep if sweep.exists else None


def label_cache_of(run: RunDirectory, split: str, data: str) -> Path:
    """Return the file for the labels of a split whose dataset directory is not writable; trials share it.

    Args:
        data: the dataset, which may vary between trials.
    """
    if (sweep := sweep_of(run)) is None:
        return run.label_cache(split)
    return RunDirectory(sweep.path).label_cache(f"{split}-{zlib.crc32(data.encode()):08x}")


def run_in_job(path: Path, environ: Mapping[str, str]) -> RunDirectory:
    """Return the run that a job with the argument `path` trains: `path`, or the trial of this task of an array.

    Raises:
        RunError: the directory of an array, and this is no task of it.
    """
    path = path.absolute()
    is_array = _ARRAY.fullmatch(path.name)
    if is_array is None or not SweepDirectory(path.parent).exists:
        return RunDirectory(path)
    task = environ.get(TASK_VARIABLE, "")
    if not task.isdecimal():
        raise RunError(f"{path}: {TASK_VARIABLE} is not set, so this is no task of the array", hint="submit the sweep")
    return RunDirectory(path.parent / trial_name(int(is_array["number"]), int(task)))


def find_sweeps(root: Path) -> list[SweepDirectory]:
    """Return the sweeps directly under `root`, by name; none where it cannot be read."""
    try:
        return [sweep for path in sorted(root.iterdir()) if (sweep := SweepDirectory(path)).exists]
    except OSError:
        return []
