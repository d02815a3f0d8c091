"""Handler of the stop signals: it sets a flag that the training loop reads between two steps.

All ranks then agree on it (`distributed.StopAgreement`), leave after the same step, and rank 0 saves. SIGTERM is a
preemption or a cancellation, SIGUSR2 the warning before the time limit, SIGINT an interruption by the user.
"""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Request to stop this process: `stop_signal` is the first stop signal that it received, None without one."""

    def __init__(self) -> None:
        self.stop_signal: signal.Signals | None = None

    def install(self) -> None:
        """Install the handler of all stop signals; the SIGCONT that Slurm sends before a SIGTERM needs none."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.stop_signal = self.stop_signal or signal.Signals(number)  # the first one is the cause


def end_at_once_until_training() -> None:
    """Let SIGTERM and the warning before a time limit end the task at once.

    Before the first step nothing can be lost, and the batch script queues the job again.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)


def describe(number: int) -> str:
    """Return the name and the meaning of signal `number`."""
    meanings: dict[int, str] = {
        signal.SIGTERM: "SIGTERM (preempted or cancelled)",
        signal.SIGUSR2: "SIGUSR2 (time limit ahead)",
        signal.SIGINT: "SIGINT (interrupted by the user)",
    }
    return meanings.get(number, f"signal {number}")
