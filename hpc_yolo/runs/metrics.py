"""The values that training and evaluation are judged by: metrics of detections and terms of the loss, each once.

Events, results of evaluations, screens, charts and reports hold these types and take names and titles from here.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

METRIC_TITLES = {"precision": "precision", "recall": "recall", "map50": "mAP50", "map50_95": "mAP50-95"}

Losses = dict[str, float | None]
"""Terms of the loss by name, with their gains; None for a value that is not finite."""


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Detection metrics in [0, 1], of one class or as means over classes."""

    precision: float = 0.0
    recall: float = 0.0
    map50: float = 0.0
    map50_95: float = 0.0

    @property
    def fitness(self) -> float:
        """The value that orders checkpoints: the higher, the better."""
        return 0.1 * self.map50 + 0.9 * self.map50_95

    def values(self) -> tuple[float, ...]:
        """Return the metrics in the order of `METRIC_TITLES`."""
        return msgspec.structs.astuple(self)


class ClassMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one class that has labels."""

    name: str
    num_labels: int
    metrics: Metrics


def total_loss(losses: Mapping[str, float | None]) -> float | None:
    """Return the sum of the terms; None where there is none or one is not finite."""
    values = [value for value in losses.values() if value is not None]
    return sum(values) if values and len(values) == len(losses) else None
