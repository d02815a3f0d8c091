"""A snapshot and what a person chose -> the lines of a terminal. Reads nothing; draws only what can be seen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from hpc_yolo.core.units import counted
from hpc_yolo.monitor.snapshot import TRAINING, RunFacts, Snapshot
from hpc_yolo.monitor.tui.keys import ACTIONS, HELP, STATE_ORDER, ScreenState, has_problem, selected_place
from hpc_yolo.monitor.tui.marks import bar, printable, short_bytes, short_time, trend_line
from hpc_yolo.monitor.tui.view import STATE_STYLES, slurm_words
from hpc_yolo.runs.event_lines import figure

HEADER_ROWS = 3
FOOTER_ROWS = 3
MIN_COLUMNS, MIN_ROWS = 40, 10
TRENDS_FROM_COLUMNS = 120


@dataclass(frozen=True)
class Column:
    """One column of the list. `from_columns`: the narrowest terminal that shows it."""

    title: str
    width: int
    text: Callable[[RunFacts], str]
    from_columns: int = 0
    is_figure: bool = True


def _dash(value: object, words: str) -> str:
    return "-" if value is None else words


COLUMNS = (
    Column("state", 10, lambda run: run.state, is_figure=False),
    Column("job", 9, lambda run: run.job_id or "-", 80, is_figure=False),
    Column("n x t", 7, lambda run: f"{run.num_nodes} x {run.tasks_per_node}", 110),
    Column("epoch", 9, lambda run: _dash(run.epoch, f"{(run.epoch or 0) + 1}/{run.epochs}")),
    Column("", 8, lambda run: bar((run.step or 0) / run.total_steps, 8) if run.total_steps else "", 130),
    Column("loss", 7, lambda run: figure(run.loss), 56),
    Column("mAP", 6, lambda run: figure(run.metric("map50_95"))),
    Column("mAP50", 6, lambda run: figure(run.metric("map50")), 120),
    Column("img/s", 8, lambda run: _dash(run.images_per_s, f"{run.images_per_s or 0:.1f}"), 80),
    Column("wait", 5, lambda run: _dash(run.data_wait_share, f"{run.data_wait_share or 0:.0%}"), 140),
    Column("GPU", 5, lambda run: _dash(run.device_use, f"{run.device_use or 0:.0%}"), 150),
    Column("memory", 9, lambda run: _dash(run.mem_bytes, short_bytes(run.mem_bytes or 0)), 150),
    Column("att", 4, lambda run: str(run.attempts), 100),
    Column("ended by", 25, lambda run: run.causes_words, 200, is_figure=False),
    Column("unsaved", 11, lambda run: _dash(run.unsaved_s, short_time(run.unsaved_s or 0.0)), 170),
    Column("left", 11, lambda run: _dash(run.left_s, short_time(run.left_s or 0.0)), 95),
    Column("loss trend", 12, lambda run: trend_line(run.loss_trend), 160, is_figure=False),
    Column("mAP trend", 12, lambda run: trend_line(run.map_trend), 180, is_figure=False),
)


def page_rows(height: int) -> int:
    """Lines of a terminal between header and footer."""
    return max(1, height - HEADER_ROWS - FOOTER_ROWS)


def list_lines(snapshot: Snapshot, runs: Sequence[RunFacts], state: ScreenState, width: int, height: int) -> list[Text]:
    """All lines of the list: header, the part of `runs` around the chosen one, and what there is to say of that one."""
    if width < MIN_COLUMNS or height < MIN_ROWS:
        return [Text(f"at least {MIN_COLUMNS} x {MIN_ROWS}, please")]
    rows = page_rows(height)
    place = selected_place(runs, state.selected)
    first = min(max(0, place - rows // 2), max(0, len(runs) - rows))
    columns = [column for column in COLUMNS if width >= column.from_columns]
    name_width = max(8, width - 2 - sum(column.width + 1 for column in columns))
    lines = [*_header(snapshot, runs, state, first, rows), _titles(columns, name_width)]
    for number in range(first, min(first + rows, len(runs))):
        lines.append(_row(runs[number], columns, name_width, is_chosen=number == place))
    if not runs:
        lines.append(Text(_nothing(snapshot), style="dim"))
    lines += [Text("")] * (height - FOOTER_ROWS - len(lines))
    return [*lines, *_about(runs[place] if runs else None), _last_line(state)]


def help_lines() -> list[Text]:
    """Every key, and what the marks mean."""
    lines = [Text("keys", style="bold"), Text("")]
    lines += [Text.assemble((f"  {keys:24}", "cyan"), words) for keys, words in HELP]
    marks = (
        ("!", "look here: named at the bottom, and in the run"),
        ("unsaved", "how old the last checkpoint was at the run's last word"),
        ("wait", "share of a step that the ranks wait for data"),
        ("GPU", "how busy the GPUs were in the last moments"),
        ("left", "until the last step at this pace, without evaluations"),
        ("trend", "from the first step to now, lowest to highest"),
    )
    lines += [Text(""), Text("marks", style="bold")]
    lines += [Text.assemble((f"  {mark:24}", "cyan"), words) for mark, words in marks]
    return [*lines, Text(""), Text("any key goes back", style="dim")]


def _header(
    snapshot: Snapshot, runs: Sequence[RunFacts], state: ScreenState, first: int, rows: int
) -> tuple[Text, Text]:
    counts = Counter(run.state for run in snapshot.runs)
    title = Text.assemble(("hpc-yolo", "bold"), f"  {counted(len(snapshot.runs), 'run')}")
    for name in STATE_ORDER:
        if counts[name]:
            title.append(f"  {counts[name]} {name}", STATE_STYLES[name])
    gpus = sum(run.num_nodes * run.gpus_per_node for run in snapshot.runs if run.state in TRAINING)
    if gpus:
        title.append(f"  {counted(gpus, 'GPU')}")
    if snapshot.num_unread:
        title.append(f"  {snapshot.num_unread} more are being read", "yellow")
    second = Text(time.strftime("%H:%M:%S", time.localtime(snapshot.time)))
    if words := slurm_words(snapshot):
        second.append(f"  {words}", "yellow" if snapshot.slurm_error else "")
    second.append(f"  by {state.sort}{', reversed' if state.is_reversed else ''}")
    if state.only_problems:
        second.append("  only problems", "yellow")
    if state.words and state.mode != "filter":
        second.append(f"  /{state.words}", "yellow")
    if len(runs) > rows:
        second.append(f"  {first + 1}-{min(first + rows, len(runs))} of {len(runs)}")
    return title, second


def _titles(columns: Sequence[Column], name_width: int) -> Text:
    titles = (
        column.title.rjust(column.width) if column.is_figure else column.title.ljust(column.width) for column in columns
    )
    return Text(f"  {'run':{name_width}} {' '.join(titles)}", style="bold underline")


def _row(run: RunFacts, columns: Sequence[Column], name_width: int, *, is_chosen: bool) -> Text:
    line = Text(style="reverse" if is_chosen else "")
    line.append(*(("! ", "bold red") if has_problem(run) else ("  ", "")))
    line.append(_fitted(run.name, name_width, is_figure=False))
    for column in columns:
        style = STATE_STYLES.get(run.state, "") if column.title == "state" else ""
        line.append(" " + _fitted(column.text(run), column.width, is_figure=column.is_figure), style)
    return line


def _fitted(words: str, width: int, *, is_figure: bool) -> str:
    """`words` in just `width` cells; what is too long ends in an ellipsis."""
    words = printable(words)
    length = cell_len(words)
    if length > width:
        return set_cell_size(words, width - 1) + "…"
    return " " * (width - length) + words if is_figure else words + " " * (width - length)


def _about(run: RunFacts | None) -> tuple[Text, Text]:
    """Two lines about the chosen run: where it is, and what is the matter with it."""
    if run is None:
        return Text(""), Text("")
    place = Text(run.path, style="dim")
    if run.problems:
        return place, Text("; ".join(run.problems), style="red")
    return place, Text(run.detail or run.outlook, style=STATE_STYLES.get(run.state, ""))


def _last_line(state: ScreenState) -> Text:
    if state.mode == "filter":
        return Text(f"/{state.words}_  enter keeps it, esc clears it", style="bold")
    if state.mode in ACTIONS.values():
        return Text(f"{state.mode} the job of {Path(state.selected or '').name}? y / n", style="bold red")
    if state.message:
        return Text(state.message, style="bold yellow")
    return Text("enter open  / filter  s sort  p problems  l logs  c cancel  r requeue  ? help  q quit", style="dim")


def _nothing(snapshot: Snapshot) -> str:
    if snapshot.runs:
        return "  no run fits; esc shows all"
    if snapshot.num_unread:
        return "  reading"
    return "  no runs; start one with: hpc-yolo submit configs/quickstart.yaml"
