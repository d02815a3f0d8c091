"""The other ranks' processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NamedTuple

from hpc_yolo.cluster.local_process import is_stopped, process_start
from hpc_yolo.distributed import World

STACKS_SIGNAL = signal.SIGUSR1  # a rank that gets it writes its stacks to stderr, even if Python is blocked


class Peer(NamedTuple):
    """Another rank's process on this machine; `start` distinguishes it from a later one with the same number."""

    pid: int
    start: int

    @property
    def is_gone(self) -> bool:
        """True once it has ended."""
        return process_start(self.pid) != self.start

    @property
    def condition(self) -> str:
        """Its state as seen from outside, while its watchdog does not respond."""
        if self.is_gone:
            return "it is gone"
        return "a signal has stopped it" if is_stopped(self.pid) else "it is blocked outside of Python"

    def resume(self) -> None:
        """Resume it if a signal has stopped it."""
        if is_stopped(self.pid):
            self._signal(signal.SIGCONT)

    def request_stacks(self) -> None:
        """Make it write its stacks to stderr, even if it is blocked outside of Python."""
        self._signal(STACKS_SIGNAL)

    def kill(self) -> None:
        """Kill it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not self.is_gone:
                os.kill(self.pid, number)


def find_peers(world: World) -> dict[int, Peer]:
    """Return the other ranks on this machine, by rank."""
    return {rank: Peer(world.ranks[rank].pid, start) for rank, start in world.neighbours.items()}
