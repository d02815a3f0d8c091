"""Following runs to their end: what is done when a tracker does not answer, and when a run is over."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from hpc_yolo.core.errors import TrackerError
from hpc_yolo.core.files import exclusive_lock
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.run_end import recorded_end
from hpc_yolo.runs.submissions import all_submissions
from hpc_yolo.spec.tracking import TrackingSpec
from hpc_yolo.tracking.follower import RunFollower, lock_path
from hpc_yolo.tracking.trackers import new_tracker

POLL_S = 1.0
RETRY_S = 30.0
MAX_LOAD = 0.1  # of a core for tries: each reads the whole journal, a long one in many seconds
MAX_TRIES_AFTER_END = 3


class Following:
    """Follows a run until it is over; a tracker that does not answer is tried again.

    Attributes:
        run: the run.
        spec: its tracker.
    """

    def __init__(
        self,
        run: RunDirectory,
        spec: TrackingSpec,
        environ: Mapping[str, str],
        *,
        is_alive: Callable[[], bool],
        directory: Path | None = None,
    ) -> None:
        """Initialize it.

        Args:
            environ: environment variables of this process.
            is_alive: returns False when no event will follow, even if the journal has no end.
            directory: for files of the tracker; None: in the run directory.
        """
        self.run, self.spec = run, spec
        self._environ, self._directory = environ, directory or run.tracking
        self._is_alive = is_alive
        self._follower: RunFollower | None = None
        self._next_try = 0.0
        self._last_error = ""
        self._tries_after_end = 0

    def look(self) -> RunFollower | None:
        """Bring what is new to the tracker; return the follower, which has left the tracker, if nothing will follow.

        Raises:
            RunError: the journal has an older format.
            TrackerError: another process does the same, or the tracker has not answered since the end of the run.
            InstallationError: the package of the tracker is not installed.
        """
        if time.monotonic() < self._next_try:
            return None
        began_s = time.process_time()
        is_alive = self._is_alive()  # before the journal is read, which may grow until then
        if self._follower is None:
            new = partial(new_tracker, self.spec, self._environ)
            self._follower = RunFollower(self.run, new, self.spec.to, self._directory).__enter__()
        follower = self._follower
        try:
            follower.advance()
            is_over = not is_alive or self._has_ended(follower)
            if is_over:
                self.leave()
        except TrackerError as error:
            is_over = not is_alive or self._has_ended(follower)
            self._try_later(error, is_over=is_over, cost_s=time.process_time() - began_s)
            return None
        return follower if is_over else None

    def leave(self) -> None:
        """Leave the tracker.

        Raises:
            TrackerError: it does not answer.
        """
        if self._follower is not None:
            self._follower.__exit__(None, None, None)
            self._follower = None

    def abandon(self, error: Exception) -> None:
        """Give up the tracker as it is, because of `error`."""
        if self._follower is not None:
            self._follower.__exit__(type(error), error, None)
            self._follower = None

    def _has_ended(self, follower: RunFollower) -> bool:
        """Return whether the journal has an end that is newer than the last submission."""
        if follower.end is None:
            return False
        submitted = max((submission.time for submission in all_submissions(self.run)), default=0.0)
        return follower.end_time > submitted

    def _try_later(self, error: TrackerError, *, is_over: bool, cost_s: float) -> None:
        """Give up the tracker as it is until the next try, which reads anew what it has.

        Args:
            error: of this try.
            is_over: whether the run goes on no more.
            cost_s: time of a core that this try took.

        Raises:
            TrackerError: `error`, after some tries since the end of the run.
        """
        self._tries_after_end += is_over
        self.abandon(error)
        if self._tries_after_end > MAX_TRIES_AFTER_END:
            raise error
        if str(error) != self._last_error:
            print(f"{self.run.name}: {error}; is tried again", file=sys.stderr, flush=True)
        self._last_error, self._next_try = str(error), time.monotonic() + max(RETRY_S, cost_s / MAX_LOAD)


def has_ended(run: RunDirectory, since: float = 0.0) -> bool:
    """Return whether the journal of `run` has an end after the time `since`, in seconds since 1970."""
    attempts = Attempts(read_events(run.journal))
    ended = attempts.last_end
    return recorded_end(attempts) is not None and ended is not None and ended.time > since


def wait_for_tracker(run: RunDirectory, spec: TrackingSpec | None, timeout_s: float = 60.0) -> None:
    """Wait until the process that follows `run` has brought its end to the tracker; not if the run goes on."""
    if spec is not None and has_ended(run):
        with contextlib.suppress(OSError), exclusive_lock(lock_path(run, spec.to, run.tracking), timeout_s):
            pass
