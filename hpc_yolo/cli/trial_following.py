"""The trials of a sweep as runs that are followed for a tracker, each from when it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hpc_yolo.monitor.sweep_facts import UNDER_WAY
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.tracking import TrackingSpec
from hpc_yolo.tracking.following import Following

POLL_S = 5.0


class TrialFollowing:
    """Finds the trials of a sweep that have begun.

    Args:
        spec_of: returns the tracker of a trial.
        environ: environment variables of this process.
        directory: for files of the tracker; None: in the directory of each trial.
    """

    def __init__(
        self,
        sweep: SweepDirectory,
        spec_of: Callable[[RunDirectory], TrackingSpec],
        environ: Mapping[str, str],
        directory: Path | None = None,
    ) -> None:
        self._sweep, self._spec_of, self._environ, self._directory = sweep, spec_of, environ, directory
        self._found: set[str] = set()
        self._alive: set[str] = set()
        self._is_under_way = True
        self._next_poll_s = float("-inf")

    def begun(self) -> list[Following] | None:
        """Return the trials that have begun since the last call; None if no other will."""
        if time.monotonic() < self._next_poll_s:
            return []
        self._look()
        self._next_poll_s = time.monotonic() + POLL_S
        names = [trial.name for trial in self._sweep.trials()]
        new = [name for name in names if name not in self._found and self._sweep.trial(name).journal.exists()]
        self._found.update(new)
        if not new and not self._is_under_way:
            return None
        return [self._follow(self._sweep.trial(name)) for name in new]

    def _look(self) -> None:
        from hpc_yolo.cli.sweep import facts_of  # with what it needs 20 ms, of no use for runs

        facts, warning = facts_of(self._sweep.path)
        if not warning:
            self._alive = {trial.name for trial in facts.trials if trial.state in UNDER_WAY}
            self._is_under_way = facts.is_under_way

    def _follow(self, run: RunDirectory) -> Following:
        name = run.path.name
        return Following(
            run,
            self._spec_of(run),
            self._environ,
            is_alive=lambda: name in self._alive,
            directory=self._directory,
        )
