"""A run in Trackio, in its database on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from hpc_yolo.runs.series import Row
from hpc_yolo.tracking.tracker import TrackedRun, Tracker, imported, tracker_errors


class TrackioTracker(Tracker):
    """Gives each row an identifier, of which the database takes each once."""

    def __init__(self, project: str) -> None:
        """Initialize the tracker.

        Raises:
            InstallationError: Trackio is not installed.
        """
        self._project = project
        self._storage: Any = imported("trackio.sqlite_storage", "trackio", "trackio").SQLiteStorage
        self._run: TrackedRun | None = None

    @property
    def location(self) -> str:
        """The command that shows the project."""
        return f"trackio show --project {self._project}"

    def open(self, run: TrackedRun) -> int:
        """Return the number of rows that the database has.

        Raises:
            TrackerError: the database cannot be read.
        """
        self._run = run
        with tracker_errors("trackio", Exception):
            return int(self._storage.get_log_count(self._project, run.name, run_id=run.id))

    def log(self, rows: Sequence[Row]) -> None:
        """Write `rows` in one transaction.

        Raises:
            TrackerError: the database cannot be written.
        """
        assert self._run is not None
        with tracker_errors("trackio", Exception):
            self._storage.bulk_log(
                self._project,
                self._run.name,
                [row.values for row in rows],
                steps=[row.step for row in rows],
                timestamps=[datetime.fromtimestamp(row.time, timezone.utc).isoformat() for row in rows],
                config=dict(self._run.config),
                log_ids=[f"{self._run.id}-{row.index}" for row in rows],
                run_id=self._run.id,
            )
