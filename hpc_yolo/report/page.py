"""The page: facts of runs in, one HTML text out that needs no network and no script.

`templates/page.html` is its form; what it shows of a run is made here, as values. Jinja2 escapes whatever comes from
data; only the charts (`charts.py`) are markup.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import hpc_yolo
from hpc_yolo.core.units import counted, short_time
from hpc_yolo.plots.chart import COLOURS, CONFUSION_CAPTION, INKS, MAX_NUMBERED
from hpc_yolo.plots.labels import LabelStatistics
from hpc_yolo.plots.results import most_confused, results_charts
from hpc_yolo.plots.training import training_charts
from hpc_yolo.report.facts import ReportFacts, spec_differences
from hpc_yolo.runs.event_lines import three_decimals
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.metrics import METRIC_TITLES
from hpc_yolo.runs.time_ledger import KINDS

TEMPLATES = Path(__file__).parent / "templates"
KIND_COLOURS = dict(zip(KINDS, (3, 4, 8, 6, 2, 0, 5, 1), strict=True))
MAX_MISTAKES = 12
NOTHING = "–"


def report_page(runs: Sequence[ReportFacts], made: str) -> str:
    """Return the whole page. `made`: when and by which version."""
    found = [(run.label, number, run.results) for number, run in enumerate(runs) if run.results is not None]
    return render(
        "page.html",
        title=" · ".join(run.label for run in runs),
        made=made,
        runs=runs,
        differences=spec_differences(runs) if len(runs) > 1 else [],
        training_charts=training_charts([(run.label, run.events) for run in runs]),
        results_charts=results_charts(found) if found else [],
        metric_titles=list(METRIC_TITLES.values()),
        kind_colours=KIND_COLOURS,
        max_matrix_classes=MAX_NUMBERED,
    )


def made_now() -> str:
    """Return the last line of a page: when and by which version it was made."""
    return f"Made by hpc-yolo {hpc_yolo.__version__} on {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"


def render(template: str, **values: object) -> str:
    """Return the page that `template` makes of `values`, with the colours of charts as variables of its style."""
    palette = INKS | {f"c{number}": colour for number, colour in enumerate(COLOURS)}
    page = _environment().get_template(template)
    return page.render(palette=palette, num_colours=len(COLOURS), **values).lstrip()


def _environment() -> Environment:
    from hpc_yolo.report.charts import chart_markup, confusion_markup, heat_map_markup  # pulls in matplotlib

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "attempt_rows": attempt_rows,
        "base64": lambda content: base64.b64encode(content).decode(),
        "class_rows": class_rows,
        "confusion": confusion_markup,
        "counted": counted,
        "duration": short_time,
        "environment_rows": environment_rows,
        "heat_map": heat_map_markup,
        "mistakes": lambda results: most_confused(results, MAX_MISTAKES),
        "split_rows": split_rows,
        "stage_rows": stage_rows,
        "summary": summary_of,
        "svg": chart_markup,
        "warning_lines": warning_lines,
    }
    environment.globals["confusion_caption"] = CONFUSION_CAPTION
    return environment


def summary_of(run: ReportFacts) -> list[tuple[str, str]]:
    """Return (name, value) of the main facts, the same names for every run."""
    best, epoch, ledger = run.best, run.last_epoch, run.ledger
    return [
        ("state", run.state),
        ("mAP50-95", NOTHING if best is None else three_decimals(best.metrics.map50_95)),
        ("mAP50", NOTHING if best is None else three_decimals(best.metrics.map50)),
        ("best epoch", NOTHING if best is None else str(best.epoch + 1)),
        ("epochs done", NOTHING if epoch is None else str(epoch.epoch + 1)),
        ("images a second", NOTHING if run.images_per_s is None else f"{run.images_per_s:.1f}"),
        ("attempts", str(len(run.attempts.starts))),
        ("wall time", short_time(ledger.total_s)),
        ("lost", short_time(ledger.seconds["lost"])),
        ("GPU hours", f"{ledger.gpu_s / 3600:.2f}" if ledger.gpu_s else NOTHING),
        ("rank hours", f"{ledger.rank_s / 3600:.2f}"),
    ]


def class_rows(best: Evaluated) -> list[list[str]]:
    """Return the rows of the best evaluation: all classes, then each."""
    num_labels = sum(row.num_labels for row in best.classes)
    rows = [["all classes", str(num_labels), *map(three_decimals, best.metrics.values())]]
    for row in best.classes:
        rows.append([row.name, str(row.num_labels), *map(three_decimals, row.metrics.values())])
    return rows


def split_rows(labels: LabelStatistics) -> list[list[str]]:
    """Return a row for each split: its images, and its objects by size."""
    rows = []
    for name, split in (("train", labels.train), ("val", labels.val)):
        images = (split.num_images, split.num_backgrounds, split.num_corrupt)
        rows.append([name, *map(str, (*images, split.num_small, split.num_medium, split.num_large))])
    return rows


def attempt_rows(run: ReportFacts) -> list[list[str]]:
    """Return a row for each attempt: where it ran, how long, and how it ended."""
    times = {attempt.number: attempt for attempt in run.ledger.attempts}
    rows = []
    for started in run.attempts.starts:
        attempt, entry = run.attempts.get(started.attempt), times.get(started.attempt)
        ended = None if attempt is None else attempt.ended
        hosts = ", ".join(dict.fromkeys(rank.host for rank in started.ranks))
        durations = () if entry is None else (entry.queued_s, entry.end - entry.begin, entry.seconds.get("lost", 0.0))
        rows.append(
            [
                str(started.attempt),
                started.job_id or NOTHING,
                f"{started.world_size} on {hosts}",
                str(started.step),
                NOTHING if ended is None else str(ended.step),
                *(map(short_time, durations) if durations else [NOTHING] * 3),
                "no end in the journal" if ended is None else ended.cause or ended.outcome,
                "" if ended is None else ended.detail,
            ]
        )
    return rows


def stage_rows(run: ReportFacts) -> list[list[str]]:
    """Return a row for each try of a stage after the training, in the order in which they began."""
    return [
        [
            record.stage,
            f"{record.end}, {record.number}",
            record.job_id or NOTHING,
            NOTHING if record.ended is None else short_time(record.ended - record.began),
            record.state,
            record.detail,
        ]
        for record in run.stages
    ]


def warning_lines(run: ReportFacts) -> list[str]:
    """Return each warning of the run once, with how often it was raised."""
    counts = Counter(event.message for event in run.warnings)
    lines = [f"{message}{f' ({count} times)' if count > 1 else ''}" for message, count in counts.items()]
    if run.num_unread:
        unread = counted(run.num_unread, "line")
        lines.append(f"{unread} of the journal cannot be read: cut off, or written by a newer version")
    return lines


def environment_rows(run: ReportFacts) -> list[Iterable[str]]:
    """Return from where the run was submitted, and on what it ran last."""
    rows: list[Iterable[str]] = [(str(key), str(value)) for key, value in run.origin.items()]
    rows += [("device", f"{last.device}, {last.precision}, {last.launcher}") for last in run.attempts.starts[-1:]]
    return rows
