"""Facts as rich tables. Nothing is read or decided here."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from hpc_yolo.core.units import counted
from hpc_yolo.monitor.snapshot import RunFacts, Snapshot
from hpc_yolo.monitor.tui.marks import printable, short_time
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import figure
from hpc_yolo.runs.events import EpochEnded, Evaluated
from hpc_yolo.runs.metrics import METRIC_TITLES

STATE_STYLES = {
    "unstarted": "yellow",
    "queued": "yellow",
    "requeued": "yellow",
    "running": "green",
    "saving": "cyan",
    "done": "bold green",
    "stopped": "magenta",
    "cancelled": "magenta",
    "failed": "bold red",
    "lost": "bold red",
    "unreadable": "bold red",
    "gone": "dim",
}


def runs_table(runs: Iterable[RunFacts]) -> Table:
    """One row a run, in 80 columns for names of up to a dozen letters."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in ("run", "state", "job"):
        table.add_column(header)
    for header in ("n x t", "epoch", "step", "loss", "mAP50", "mAP", "img/s", "att"):
        table.add_column(header, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            Text(printable(run.name)),
            Text(run.state, style=STATE_STYLES.get(run.state, "")),
            Text(printable(run.job_id or "-")),
            f"{run.num_nodes} x {run.tasks_per_node}",
            "-" if run.epoch is None else f"{run.epoch + 1}/{run.epochs}",
            "-" if run.step is None else f"{run.step}/{run.total_steps}",
            figure(run.loss),
            figure(run.metric("map50")),
            figure(run.metric("map50_95")),
            "-" if run.images_per_s is None else f"{run.images_per_s:.1f}",
            str(run.attempts),
        )
    return table


def runs_details(runs: Iterable[RunFacts]) -> list[Text]:
    """A line for everything that there is to say about a run beside its figures."""
    lines = []
    for run in runs:
        words = [f"{run.state}: {run.detail}"] if run.detail else []
        lines += [
            Text.assemble((f"{printable(run.name)}: ", STATE_STYLES.get(run.state, "")), printable(line))
            for line in (*words, *run.problems)
        ]
    return lines


def slurm_words(snapshot: Snapshot) -> str:
    """How old Slurm's answer is, and why there is no newer one; "" where no run needs it."""
    if snapshot.slurm_error:
        since = (
            "has not answered yet"
            if snapshot.slurm_time is None
            else f"as of {short_time(snapshot.time - snapshot.slurm_time)} ago"
        )
        return f"Slurm {since}: {snapshot.slurm_error}"
    if snapshot.slurm_time is None:
        return ""
    return f"Slurm {short_time(snapshot.time - snapshot.slurm_time)} ago"


def results_table(run: RunDirectory, best: Evaluated, last_epoch: EpochEnded | None) -> Table:
    """The figures of the best epoch, all classes and each, and where the checkpoints are."""
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
    table.add_row("all", str(num_labels), *map(figure, best.metrics.values()), style="bold")
    for row in best.classes:
        table.add_row(row.name, str(row.num_labels), *map(figure, row.metrics.values()))
    return table
