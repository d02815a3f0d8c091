"""The phases of the training loop that the watchdog sees, and how long the slow ones may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hpc_yolo.checkpoint import Position
from hpc_yolo.data.batch import TrainingBatch
from hpc_yolo.training.watchdog import Watchdog

Item = TypeVar("Item")
SLOW_PHASE_S = 600.0  # for what one rank does while the others wait, and for a disk that is slow now and then


class Phases:
    """Sends a heartbeat at the beginning of each phase; all ranks pass the same phases in the same order."""

    def __init__(self, watchdog: Watchdog, position: Position) -> None:
        self._watchdog = watchdog
        self._position = position

    def training(self, batches: Iterator[TrainingBatch], on_wait: Callable[[float], None]) -> Iterator[TrainingBatch]:
        """Yield `batches`.

        Args:
            on_wait: called with the seconds spent waiting for each.
        """
        while True:
            started_s = time.perf_counter()
            self._begin("waiting for data")
            batch = next(batches, None)
            on_wait(time.perf_counter() - started_s)
            if batch is None:
                return
            self._begin("step")
            yield batch

    def evaluation(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Yield `batches`; after the last one the metrics are computed."""
        for batch in batches:
            self._begin("evaluation")
            yield batch
        self._begin("metrics", SLOW_PHASE_S)

    def saving(self) -> None:
        """Begin to copy a checkpoint, or to wait for its file."""
        self._begin("saving", SLOW_PHASE_S)

    def rolling_back(self) -> None:
        """Begin to read the newest checkpoint."""
        self._begin("rolling back", SLOW_PHASE_S)

    def _begin(self, phase: str, allowed_s: float = 0.0) -> None:
        self._watchdog.heartbeat(phase, self._position.step, allowed_s)
