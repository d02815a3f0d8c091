"""Metrics as the journal and reports have them."""

from __future__ import annotations

from collections.abc import Sequence

from hpc_yolo.evaluation.metrics import DetectionMetrics
from hpc_yolo.runs.events import ClassFigures


def class_figures(metrics: DetectionMetrics, names: Sequence[str]) -> list[ClassFigures]:
    """The figures of each class in `metrics`, under its name."""
    return [
        ClassFigures(
            name=names[row.class_index],
            num_labels=row.num_labels,
            precision=row.precision,
            recall=row.recall,
            map50=row.ap50,
            map50_95=row.ap50_95,
        )
        for row in metrics.per_class
    ]
