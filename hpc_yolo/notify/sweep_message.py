"""What the trials of a sweep amount to, and the message about its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpc_yolo.core.units import counted
from hpc_yolo.monitor.run_record import RunRecord
from hpc_yolo.notify.message import Message, metrics_of, times_of
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.notify import FAILED, FINISHED


@dataclass
class SweepFacts:
    """What the trials of a sweep amount to.

    Attributes:
        num_trials, num_failed: of those that have ended.
        seconds, gpu_seconds: of all attempts of all trials.
        num_attempts: of all trials.
        sum_of_attempts: of the numbers of the attempts with which the trials have ended.
        best: of the best trial, with its name and its values.
    """

    num_trials: int = 0
    num_failed: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    num_attempts: int = 0
    sum_of_attempts: int = 0
    best: Evaluated | None = None
    best_name: str = ""
    best_values: Mapping[str, Any] = field(default_factory=dict)

    def add(self, name: str, record: RunRecord, values: Mapping[str, Any], *, attempt: int, is_finished: bool) -> None:
        """Add a trial with its values; `attempt`: with which it has ended."""
        seconds, gpu_seconds, attempts = times_of(record)
        self.num_trials += 1
        self.num_failed += not is_finished
        self.seconds += seconds
        self.gpu_seconds += gpu_seconds
        self.num_attempts += attempts
        self.sum_of_attempts += attempt
        best = record.best
        if best is not None and (self.best is None or best.metrics.fitness > self.best.metrics.fitness):
            self.best, self.best_name, self.best_values = best, name, values


def sweep_message(sweep: SweepDirectory, facts: SweepFacts) -> Message:
    """Return the message about the end of a sweep."""
    best = facts.best
    failed = f"{facts.num_failed} of {counted(facts.num_trials, 'trial')} failed" if facts.num_failed else ""
    return Message(
        event=FAILED if facts.num_failed else FINISHED,
        name=sweep.name,
        directory=str(sweep.path),
        reason=failed,
        trials=facts.num_trials,
        trials_failed=facts.num_failed,
        attempts=facts.num_attempts,
        hours=facts.seconds / 3600,
        gpu_hours=facts.gpu_seconds / 3600,
        best_trial=facts.best_name,
        best_epoch=None if best is None else best.epoch + 1,
        metrics={} if best is None else metrics_of(best),
        values=dict(facts.best_values),
        following=[shlex.join(["hpc-yolo", "sweep", "table", str(sweep.path)])],
    )
