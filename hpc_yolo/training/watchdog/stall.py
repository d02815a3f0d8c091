"""The time limit of a rank's main thread at its position: arithmetic only, for the watchdog's thread."""

from __future__ import annotations

from typing import NamedTuple

MIN_LIMIT_S, LIMIT_PER_LONGEST = 45.0, 5.0


class MainThread(NamedTuple):
    """The position of a main thread.

    Attributes:
        num_heartbeats: since the watchdog started.
        num_phases: since its step changed.
        allowed_s: how long the phase may take, if longer than the limit.
    """

    num_heartbeats: int
    step: int
    num_phases: int
    phase: str
    allowed_s: float

    def next(self, phase: str, step: int, allowed_s: float) -> MainThread:
        """Return the position after one more heartbeat."""
        num_phases = self.num_phases + 1 if step == self.step else 0
        return MainThread(self.num_heartbeats + 1, step, num_phases, phase, allowed_s)


BEFORE_TRAINING = MainThread(0, -1, 0, "the start", 0.0)


class StallTimer:
    """Measures the time of a main thread without a heartbeat, and its limit.

    Attributes:
        stalled_s: since its last heartbeat.
    """

    def __init__(self, timeout_s: float | None, start_timeout_s: float) -> None:
        """Initialize the timer.

        Args:
            timeout_s: the limit; None is 45 s, or five times the longest stall so far.
            start_timeout_s: the limit is not below this until the first step is done.
        """
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._seen: MainThread | None = None
        self._first_step: int | None = None
        self._longest_s = 0.0
        self.stalled_s = 0.0

    def observe(self, thread: MainThread, elapsed_s: float) -> None:
        """Record the position of the main thread, `elapsed_s` after the last observation."""
        if self._seen is not None and thread.num_heartbeats == self._seen.num_heartbeats:
            self.stalled_s += elapsed_s
            return
        if self._has_begun and self._seen is not None and not self._seen.allowed_s:
            self._longest_s = max(self._longest_s, self.stalled_s)
        if self._first_step is None and thread.step >= 0:
            self._first_step = thread.step
        self._seen, self.stalled_s = thread, 0.0

    @property
    def limit_s(self) -> float:
        """Seconds that the main thread may stay at its position."""
        usual_s = self._timeout_s
        if usual_s is None:
            usual_s = max(MIN_LIMIT_S, LIMIT_PER_LONGEST * self._longest_s)
        allowed_s = 0.0 if self._seen is None else self._seen.allowed_s
        return max(usual_s, allowed_s, 0.0 if self._has_begun else self._start_timeout_s)

    @property
    def remaining_s(self) -> float:
        """Seconds that remain of the limit."""
        return self.limit_s - self.stalled_s

    @property
    def _has_begun(self) -> bool:
        """True once the first step of this attempt is done."""
        return self._seen is not None and self._first_step is not None and self._seen.step > self._first_step
