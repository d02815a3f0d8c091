"""Charts of benchmarks over commits."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from hpc_yolo.bench.records import BenchRecord
from hpc_yolo.plots.chart import Chart, Line


def commit_charts(records: Sequence[BenchRecord]) -> list[Chart]:
    """Return a chart for each benchmark: time over that of its reference, by record, a line for each work.

    [] without timings. Quick records have other work, and are left out where there are whole ones.
    """
    whole = [record for record in records if not record.is_quick] or list(records)
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for number, record in enumerate(whole, start=1):
        for result in record.results:
            lines = points.setdefault(result.bench, {})
            for timing in result.timings:
                lines.setdefault(timing.name, []).append((number, statistics.median(result.ratios(timing))))
    bounds = (0.5, len(whole) + 0.5)
    return [
        Chart(
            title=f"{bench}: time over the reference",
            x_label=f"record, 1 ({_name(whole[0])}) to {len(whole)} ({_name(whole[-1])})",
            lines=tuple(
                Line(name, tuple(x for x, _ in values), tuple(y for _, y in values), colour=colour)
                for colour, (name, values) in enumerate(lines.items())
            ),
            x_bounds=bounds,
            y_bounds=(0.0, None),
        )
        for bench, lines in points.items()
        if lines
    ]


def _name(record: BenchRecord) -> str:
    return record.commit or record.version
