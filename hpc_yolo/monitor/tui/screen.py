"""The list of runs as lines of a terminal, from a snapshot and the state of the screen. Reads nothing."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from hpc_yolo.core.units import counted
from hpc_yolo.monitor.blocks import one_line
from hpc_yolo.monitor.columns import LIST_COLUMNS, Column
from hpc_yolo.monitor.run_facts import TRAINING, RunFacts
from hpc_yolo.monitor.snapshot import Snapshot
from hpc_yolo.monitor.tui.keys import ACTIONS, HELP, STATE_ORDER, ScreenState, selected_index
from hpc_yolo.monitor.tui.view import STATE_STYLES

HEADER_ROWS = 3
FOOTER_ROWS = 3
MIN_COLUMNS, MIN_ROWS = 40, 10


def page_rows(height: int) -> int:
    """Return the number of lines between header and footer."""
    return max(1, height - HEADER_ROWS - FOOTER_ROWS)


def list_lines(snapshot: Snapshot, runs: Sequence[RunFacts], state: ScreenState, width: int, height: int) -> list[Text]:
    """Return all lines of the list: header, the part of `runs` around the selected one, two lines about that one."""
    rows = page_rows(height)
    index = selected_index(runs, state.selected)
    last_line = _last_line(state, runs[index] if runs else None)
    if width < MIN_COLUMNS or height < MIN_ROWS:
        too_small = Text(f"the terminal must be at least {MIN_COLUMNS} x {MIN_ROWS}")
        shown = last_line if state.mode in ACTIONS.values() else too_small  # a question is never hidden
        return [Text(line, style=shown.style) for line in textwrap.wrap(shown.plain, width)]
    first = min(max(0, index - rows // 2), max(0, len(runs) - rows))
    columns = [column for column in LIST_COLUMNS if width >= column.min_terminal]
    name_width = max(8, width - 2 - sum(column.width + 1 for column in columns))
    lines = [*_header(snapshot, runs, state, first, rows), _headers(columns, name_width)]
    for number in range(first, min(first + rows, len(runs))):
        lines.append(_row(runs[number], columns, name_width, is_selected=number == index))
    if not runs:
        lines.append(Text(_nothing(snapshot), style="dim"))
    lines += [Text("")] * (height - FOOTER_ROWS - len(lines))
    return [*lines, *_about(runs[index] if runs else None), last_line]


def help_lines() -> list[Text]:
    """Return the help: every key, and what the columns mean."""
    lines = [Text("keys", style="bold"), Text("")]
    lines += [Text.assemble((f"  {keys:24}", "cyan"), text) for keys, text in HELP]
    lines += [Text(""), Text("columns", style="bold")]
    columns = [("!", "needs attention: see the bottom, or the run's page")]
    columns += [(column.header, column.help) for column in LIST_COLUMNS if column.help]
    lines += [Text.assemble((f"  {header:24}", "cyan"), text) for header, text in columns]
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
    if text := snapshot.slurm_text:
        second.append(f"  {text}", "yellow" if snapshot.slurm_error else "")
    second.append(f"  by {state.sort}{', reversed' if state.is_reversed else ''}")
    if state.only_problems:
        second.append("  only problems", "yellow")
    if state.filter_text and state.mode != "filter":
        second.append(f"  /{state.filter_text}", "yellow")
    if len(runs) > rows:
        second.append(f"  {first + 1}-{min(first + rows, len(runs))} of {len(runs)}")
    return title, second


def _headers(columns: Sequence[Column], name_width: int) -> Text:
    headers = [f"{column.header:{'>' if column.is_number else '<'}{column.width}}" for column in columns]
    return Text(f"  {'run':{name_width}} {' '.join(headers)}", style="bold underline")


def _row(run: RunFacts, columns: Sequence[Column], name_width: int, *, is_selected: bool) -> Text:
    line = Text(style="reverse" if is_selected else "")
    line.append(*(("! ", "bold red") if run.needs_attention else ("  ", "")))
    line.append(_fitted(_shown_name(run), name_width, is_number=False))
    for column in columns:
        style = STATE_STYLES.get(run.state, "") if column.name == "state" else ""
        line.append(" " + _fitted(column.text_of(run), column.width, is_number=column.is_number), style)
    return line


def _shown_name(run: RunFacts) -> str:
    """Return the name of a run; trials are indented below their sweep, which has their number."""
    if run.num_trials:
        return f"{run.name} ({counted(run.num_trials, 'trial')})"
    return f"  {run.name}" if run.sweep else run.name


def _fitted(text: str, width: int, *, is_number: bool) -> str:
    """Return `text` in exactly `width` cells; what is too long ends in an ellipsis."""
    text = one_line(text)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - length) + text if is_number else text + " " * (width - length)


def _about(run: RunFacts | None) -> tuple[Text, Text]:
    """Return two lines about the selected run: its path, and its problems or state."""
    if run is None:
        return Text(""), Text("")
    path = Text(run.path, style="dim")
    if run.problems:
        return path, Text("; ".join(run.problems), style="red")
    return path, Text(run.detail or run.outlook, style=STATE_STYLES.get(run.state, ""))


def _last_line(state: ScreenState, run: RunFacts | None) -> Text:
    if state.mode == "filter":
        return Text(f"/{state.filter_text}_  enter keeps the filter, esc clears it", style="bold")
    if state.mode in ACTIONS.values():
        is_sweep = run is not None and run.path == state.selected and run.num_trials
        what = "all trials" if is_sweep else "the job"
        return Text(f"{state.mode} {what} of {Path(state.selected or '').name}? y / n", style="bold red")
    if state.message:
        return Text(state.message, style="bold yellow")
    return Text("enter open  / filter  s sort  p problems  l logs  c cancel  r requeue  ? help  q quit", style="dim")


def _nothing(snapshot: Snapshot) -> str:
    if snapshot.runs or snapshot.sweeps:
        return "  no run passes the filter; esc shows all"
    if snapshot.num_unread:
        return "  reading"
    return "  no runs; start one with: hpc-yolo submit configs/quickstart.yaml"
