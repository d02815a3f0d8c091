"""The page of a sweep: its trials as a table, as lines over parallel axes, and the metric over each field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpc_yolo.monitor.sweep_facts import SweepFacts, TrialFacts, short_name
from hpc_yolo.report.page import render
from hpc_yolo.runs.metrics import METRIC_TITLES

METRIC = METRIC_TITLES["map50_95"]


def sweep_page(sweep: SweepFacts, made: str) -> str:
    """Return the whole page. `made`: when and by which version."""
    parallel, scatters = _figures(sweep.fields, [trial for trial in sweep.ranked if trial.metrics is not None])
    return render(
        "sweep.html",
        title=sweep.name,
        made=made,
        tiles=_tiles(sweep),
        metric=METRIC,
        parallel=parallel,
        scatters=scatters,
        heads=sweep.heads,
        rows=sweep.rows,
    )


def _tiles(sweep: SweepFacts) -> list[tuple[str, str]]:
    best = sweep.best
    found = [("trials", str(len(sweep.trials))), *((state, str(number)) for state, number in sweep.counts.items())]
    if best is not None and best.metrics is not None:
        found += [("best trial", best.name), (METRIC, f"{best.metrics.map50_95:.3f}")]
    return found


def _figures(fields: Sequence[str], trials: Sequence[TrialFacts]) -> tuple[Any, list[tuple[str, Any]]]:
    """Return (lines over parallel axes, (field, metric over it)) of `trials`, the best first; nothing for one alone."""
    if len(trials) < 2 or not fields:
        return None, []
    from hpc_yolo.plots.sweep_figures import parallel_svg, scale_of, scatter_svg  # imports matplotlib
    from hpc_yolo.report.charts import themed

    metric = [round(trial.metrics.map50_95, 4) for trial in trials if trial.metrics is not None]
    columns = {field: [trial.values.get(field) for trial in trials] for field in fields}
    varied = {field: values for field, values in columns.items() if len(set(values)) > 1}
    scales = {field: scale_of(short_name(field), values) for field, values in varied.items()}
    lines = list(zip(*varied.values(), metric, strict=True))
    parallel = themed(parallel_svg([*scales.values(), scale_of(METRIC, metric)], lines))
    scatters = [
        (short_name(field), themed(scatter_svg(scales[field], values, metric))) for field, values in varied.items()
    ]
    return parallel, scatters
