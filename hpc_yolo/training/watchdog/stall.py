"""How long a rank's main thread may stay where it is: arithmetic only, for the watchdog's thread."""

from __future__ import annotations

from typing import NamedTuple

LEAST_LIMIT_S, LIMIT_IN_LONGEST = 45.0, 5.0


class Progress(NamedTuple):
    """Where a main thread is; `beats` counts every word from it, `place` those since its step changed."""

    beats: int
    step: int
    place: int
    phase: str
    allowed_s: float


class Silence:
    """How long a main thread has not moved, and how long it may."""

    def __init__(self, timeout_s: float | None, start_timeout_s: float) -> None:
        """
        Args:
            timeout_s: the limit; None is 45 s, or five times the longest silence so far.
            start_timeout_s: the limit is not below this until the first step is done.
        """
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._seen: Progress | None = None
        self._first_step: int | None = None
        self._longest_s = 0.0
        self.silent_s = 0.0

    def note(self, progress: Progress, elapsed_s: float) -> None:
        """Take in where the main thread is now, `elapsed_s` after the last look."""
        if self._seen is not None and progress.beats == self._seen.beats:
            self.silent_s += elapsed_s
            return
        if self._has_begun and self._seen is not None and not self._seen.allowed_s:
            self._longest_s = max(self._longest_s, self.silent_s)
        if self._first_step is None and progress.step >= 0:
            self._first_step = progress.step
        self._seen, self.silent_s = progress, 0.0

    @property
    def limit_s(self) -> float:
        """Seconds that the main thread may stay where it is now."""
        usual_s = self._timeout_s
        if usual_s is None:
            usual_s = max(LEAST_LIMIT_S, LIMIT_IN_LONGEST * self._longest_s)
        allowed_s = 0.0 if self._seen is None else self._seen.allowed_s
        return max(usual_s, allowed_s, 0.0 if self._has_begun else self._start_timeout_s)

    @property
    def left_s(self) -> float:
        """What is left of the limit."""
        return self.limit_s - self.silent_s

    @property
    def _has_begun(self) -> bool:
        """Whether the first step of this attempt is done."""
        return self._seen is not None and self._first_step is not None and self._seen.step > self._first_step
