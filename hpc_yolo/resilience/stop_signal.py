"""A signal becomes a note that the training loop reads between two steps.

The handler does nothing but write one number. All ranks then agree on it (`distributed.StopAgreement`), leave after the
same step, and rank 0 saves. SIGTERM is a preemption or a cancel, SIGUSR2 the time limit ahead, SIGINT a person.
"""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Whether this process was asked to stop, and by which signal (0: not asked)."""

    def __init__(self) -> None:
        self.signal_number = 0

    def install(self) -> None:
        """Take over the stop signals from whoever had them; Slurm's SIGCONT before a SIGTERM needs no answer."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def _note(self, signal_number: int, _frame: FrameType | None) -> None:
        self.signal_number = self.signal_number or signal_number  # the first one is the cause


def end_at_once_until_training() -> None:
    """Before the first step nothing can be lost: SIGTERM and the warning before a time limit end a task at once,
    whoever handled them before; the batch script queues the job again."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)


def describe(signal_number: int) -> str:
    """What a stop signal means to a person."""
    meanings: dict[int, str] = {
        signal.SIGTERM: "SIGTERM (preempted or cancelled)",
        signal.SIGUSR2: "SIGUSR2 (time limit ahead)",
        signal.SIGINT: "SIGINT (interrupted by a person)",
    }
    return meanings.get(signal_number, f"signal {signal_number}")
