"""The exit status of a command: an exit code or a signal, which one number holds in a shell."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass

_SIGNAL_BASE = 128
NOT_STARTED = 75  # exit code of a command that decides that its job has nothing to do


@dataclass(frozen=True)
class ExitStatus:
    """Exit status of a command as a shell reports it: the exit code, or 128 plus the number of a signal."""

    code: int

    @classmethod
    def of_signal(cls, number: int) -> ExitStatus:
        """Return the status of a command that signal `number` ended."""
        return cls(_SIGNAL_BASE + number)

    @property
    def is_signal(self) -> bool:
        """True for a command that a signal ended, also one that this machine has no name for."""
        return self.code > _SIGNAL_BASE

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the command; None for an exit code."""
        with contextlib.suppress(ValueError):
            return signal.Signals(self.code - _SIGNAL_BASE)
        return None
