"""The process that brings the series of a run to a tracker, as far as the journal has it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from hpc_yolo.core.errors import TrackerError
from hpc_yolo.core.files import exclusive_lock, make_directory
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import JournalReader
from hpc_yolo.runs.run_end import RunEnd, recorded_end
from hpc_yolo.runs.series import Row, Series
from hpc_yolo.tracking.tracker import TrackedRun, Tracker, run_config, run_identity, shown_name


class RunFollower:
    """Follows one run for one tracker. It is a context manager, in which no other process does the same.

    Which rows are missing follows from the journal and the number of rows that the tracker has, so it may be killed
    anywhere.
    """

    def __init__(self, run: RunDirectory, new_tracker: Callable[[], Tracker], name: str, directory: Path) -> None:
        """Initialize the follower.

        Args:
            new_tracker: returns the tracker; called when the run has begun.
            name: of the tracker.
            directory: for files of the tracker, and for the lock.
        """
        self.run = run
        self.num_logged = 0  # by this follower
        self.last_step: int | None = None
        self._new_tracker, self._name, self._directory = new_tracker, name, directory
        self._tracker: Tracker | None = None
        self._num_known = 0  # rows that the tracker had
        self._reader, self._series, self._attempts = JournalReader(run.journal), Series(), Attempts()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RunFollower:
        """Take the lock.

        Raises:
            TrackerError: another process holds it, or the directory cannot be written.
        """
        lock = lock_path(self.run, self._name, self._directory)
        try:
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            make_directory(self._directory)
            self._stack.enter_context(exclusive_lock(lock, timeout_s=0))
        except TimeoutError as error:
            raise TrackerError(
                f"{self.run.path}: another process brings it to {self._name}", hint="it goes on by itself"
            ) from error
        except OSError as error:
            raise TrackerError(
                f"{self._directory}: cannot be written: {error.strerror}", hint="name another directory with --dir"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the tracker, and release the lock."""
        with self._stack:
            if self._tracker is not None and kind is None:
                self._tracker.close(self.end)

    @property
    def end(self) -> RunEnd | None:
        """The end of the run, if the journal has it."""
        return recorded_end(self._attempts)

    @property
    def end_time(self) -> float:
        """When it ended, in seconds since 1970; 0 if it goes on."""
        ended = self._attempts.last_end
        return 0.0 if ended is None else ended.time

    @property
    def location(self) -> str:
        """Where the tracked run is; "" before it has begun."""
        return "" if self._tracker is None else self._tracker.location

    def advance(self) -> None:
        """Log what is new in the journal.

        Raises:
            RunError: the journal has an older format.
            TrackerError: the tracker refuses, or does not answer.
            InstallationError: its package is not installed.
        """
        rows: list[Row] = []
        for event in self._reader.new_events():
            self._attempts.add(event)
            rows += self._series.add(event)
        if rows:
            self.last_step = max(row.step for row in rows)
        if self._tracker is None and (identity := run_identity(self.run)) is not None:
            self._tracker = self._new_tracker()
            tracked = TrackedRun(identity, shown_name(self.run), run_config(self.run), self._directory)
            self._num_known = self._tracker.open(tracked)
        missing = [row for row in rows if row.index >= self._num_known]
        if missing and self._tracker is not None:
            self._tracker.log(missing)
            self.num_logged += len(missing)


def lock_path(run: RunDirectory, name: str, directory: Path) -> Path:
    """Return the file that a process locks while it brings `run` to the tracker `name`, with files in `directory`."""
    if directory == run.tracking:
        return directory / f".{run.name}-{name}.lock"
    digest = hashlib.sha256(os.fsencode(run.path.resolve())).hexdigest()[:8]  # others may have its name
    return directory / f".{run.name}-{digest}-{name}.lock"
