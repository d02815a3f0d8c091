"""The phases of the training loop for the watchdog, and the time limit of the slow ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hpc_yolo.checkpoint import Position
from hpc_yolo.data.undrawn import AnyTrainingBatch
from hpc_yolo.training.watchdog import Watchdog

Item = TypeVar("Item")
SLOW_PHASE_S = 600.0  # for work of one rank while the others wait, and for a disk that is slow at times


class Phases:
    """Sends a heartbeat at the beginning of each phase; all ranks pass the same phases in the same order."""

    def __init__(self, watchdog: Watchdog, position: Position, clock: Callable[[], float] = time.perf_counter) -> None:
        self._watchdog = watchdog
        self._position = position
        self._clock = clock

    def training(
        self, batches: Iterator[AnyTrainingBatch], on_wait: Callable[[float], None]
    ) -> Iterator[AnyTrainingBatch]:
        """Yield `batches`.

        Args:
            on_wait: called with the seconds spent waiting for each, and for nothing else.
        """
        while True:
            self._begin("waiting for data")
            started_s = self._clock()
            batch = next(batches, None)
            waited_s = self._clock() - started_s
            if batch is None:
                return
            on_wait(waited_s)
            self._begin("step")
            yield batch

    def evaluation(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Yield `batches`; after the last one the metrics are computed."""
        for batch in batches:
            self._begin("evaluation")
            yield batch
        self._begin("metrics", SLOW_PHASE_S)

    def saving(self) -> None:
        """Start the phase that copies a checkpoint, or waits for its file."""
        self._begin("saving", SLOW_PHASE_S)

    def comparing(self) -> None:
        """Start the phase that compares a trial with the others of its sweep."""
        self._begin("comparing trials", SLOW_PHASE_S)

    def rolling_back(self) -> None:
        """Start the phase that reads the newest checkpoint."""
        self._begin("rolling back", SLOW_PHASE_S)

    def _begin(self, phase: str, allowed_s: float = 0.0) -> None:
        self._watchdog.heartbeat(phase, self._position.step, allowed_s)
