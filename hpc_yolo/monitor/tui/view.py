"""Facts as rich tables. Nothing is read or decided here."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from hpc_yolo.core.units import counted
from hpc_yolo.monitor.blocks import one_line
from hpc_yolo.monitor.columns import TABLE_COLUMNS
from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import three_decimals
from hpc_yolo.runs.events import EpochEnded, Evaluated
from hpc_yolo.runs.metrics import METRIC_TITLES

FULL_TABLE_WIDTH = 100
STATE_STYLES = {
    "unstarted": "yellow",
    "queued": "yellow",
    "requeued": "yellow",
    "running": "green",
    "saving": "cyan",
    "suspended": "yellow",
    "done": "bold green",
    "stopped": "magenta",
    "cancelled": "magenta",
    "failed": "bold red",
    "lost": "bold red",
    "unreadable": "bold red",
    "gone": "dim",
}


def runs_table(runs: Iterable[RunFacts], width: int) -> Table:
    """Return the plain table, a row for each run; where it would not fit into `width`, with the list's columns only."""
    columns = [column for column in TABLE_COLUMNS if width >= min(column.min_terminal, FULL_TABLE_WIDTH)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.header, justify="right" if column.is_number else "left")
    for run in runs:
        styles = {"state": STATE_STYLES.get(run.state, "")}
        table.add_row(*(Text(one_line(column.text_of(run)), style=styles.get(column.name, "")) for column in columns))
    return table


def runs_details(runs: Iterable[RunFacts]) -> list[Text]:
    """Return a line for the state of each run, where there is more about it, and for each problem."""
    lines = []
    for run in runs:
        detail = [f"{run.state}: {run.detail}"] if run.detail else []
        lines += [
            Text.assemble((f"{one_line(run.name)}: ", STATE_STYLES.get(run.state, "")), one_line(line))
            for line in (*detail, *run.problems)
        ]
    return lines


def results_table(run: RunDirectory, best: Evaluated, last_epoch: EpochEnded | None) -> Table:
    """Return the metrics of the best epoch, of all classes and each, and the paths of the checkpoints."""
    training = "" if last_epoch is None else f"training {last_epoch.images_per_s:.1f} img/s, "
    table = Table(
        title=f"{run.name}: best at epoch {best.epoch + 1}, on {counted(best.num_images, 'image')}",
        caption=f"{training}evaluation {best.images_per_s:.1f} img/s\nbest: {run.best}\nlast: {run.last}",
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("class")
    for header in ("labels", *METRIC_TITLES.values()):
        table.add_column(header, justify="right")
    num_labels = sum(row.num_labels for row in best.classes)
    table.add_row("all", str(num_labels), *map(three_decimals, best.metrics.values()), style="bold")
    for row in best.classes:
        table.add_row(one_line(row.name), str(row.num_labels), *map(three_decimals, row.metrics.values()))
    return table
