"""The result of `hpc-yolo data check` on a terminal: totals, classes, findings with their first examples."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpc_yolo.core.units import counted, short_time
from hpc_yolo.data.check.fix import SplitFix
from hpc_yolo.data.check.kinds import SEVERITIES
from hpc_yolo.data.check.result import SPLIT_HEADINGS, CheckResult, Finding, Item
from hpc_yolo.monitor.console import data_console

PIPE_COLUMNS = 200
STYLES = {"error": "bold red", "warning": "bold yellow", "note": "cyan"}
MAX_CLASSES = 20
NOTHING = "–"


def print_result(result: CheckResult, *, num_examples: int) -> None:
    """Print `result`, with the first `num_examples` findings of each kind and split."""
    # A pipe has no width of its own: print long lines there.
    console = data_console(pipe_columns=PIPE_COLUMNS, highlight=False)
    for table in (_splits(result), _classes(result)):
        console.print(table)
        console.print()
    for _, findings in groupby(result.findings, key=lambda finding: finding.kind.name):
        _print_kind(console, list(findings), num_examples)
    console.print(_last_line(result))


def print_fix(fixes: Mapping[str, SplitFix]) -> None:
    """Print what a corrected copy of the dataset leaves out and changes."""
    for split, fix in fixes.items():
        click.echo(
            f"corrected copy, {split}: {counted(len(fix.kept), 'image')} kept, {_reasons(fix.left_out)} left out"
        )
        changed = fix.lines.copy()
        clipped = changed.pop("clipped", 0)
        click.echo(f"  labels: {clipped} clipped, {_reasons(changed)} dropped")
        if fix.lines["invalid-label"]:
            click.echo(
                "  objects of dropped invalid lines would have no label: correct what you can in the dataset first"
            )


def fix_json(fixes: Mapping[str, SplitFix]) -> dict[str, Any]:
    """Return what a corrected copy leaves out and changes, in types that JSON supports."""
    return {
        split: {"images_kept": len(fix.kept), "images_left_out": dict(fix.left_out), "labels_changed": dict(fix.lines)}
        for split, fix in fixes.items()
    }


def _reasons(counts: Mapping[str, int]) -> str:
    """Return the total of `counts`, with the number of each kind of finding: "3 (2 duplicate, 1 leak)"."""
    parts = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    return f"{sum(counts.values())}{f' ({parts})' if parts else ''}"


def _splits(result: CheckResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title=Text(result.dataset), title_justify="left")
    for number, heading in enumerate(SPLIT_HEADINGS):
        is_text = number in (0, len(SPLIT_HEADINGS) - 1)
        table.add_column(heading, justify="left" if is_text else "right")
    for name, split in result.splits.items():
        table.add_row(name, *split.cells())
    return table


def _classes(result: CheckResult) -> Table:
    """Return a table of the objects of each class; of many classes the most and the least frequent ones."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("class", overflow="fold")
    for name in result.splits:
        table.add_column(name, justify="right")
    columns = [split.class_counts for split in result.splits.values()]
    rows = [(Text(name), *counts) for name, *counts in zip(result.names, *columns, strict=True)]
    if len(rows) > MAX_CLASSES:
        rows.sort(key=itemgetter(1), reverse=True)
        half = MAX_CLASSES // 2
        hidden = (Text(f"… {len(rows) - 2 * half} more classes"), *([NOTHING] * len(columns)))
        rows = [*rows[:half], hidden, *rows[-half:]]
    for row in rows:
        table.add_row(row[0], *map(str, row[1:]))
    return table


def _print_kind(console: Console, findings: list[Finding], num_examples: int) -> None:
    """Print the findings of one kind, of all splits."""
    kind = findings[0].kind
    for finding in findings:
        console.print(Text.assemble((f"{kind.severity}: ", STYLES[kind.severity]), finding.sentence))
        for item in finding.items[:num_examples]:
            console.print(_example(item), soft_wrap=True)
        if finding.count > num_examples:
            console.print(f"    … and {finding.count - min(num_examples, finding.count)} more", style="dim")
    if kind.remedy:
        console.print(Text(f"  -> {kind.remedy}"))
    console.print()


def _example(item: Item) -> Text:
    where, text = (
        part.encode(errors="backslashreplace").decode() for part in (item.where, item.text)
    )  # may be no text
    return Text.assemble(f"    {where}", (f": {text}" if text else "", "dim"))


def _last_line(result: CheckResult) -> Text:
    num_images = sum(split.num_images for split in result.splits.values())
    line = Text.assemble(f"{counted(num_images, 'image')} in {short_time(result.seconds)}: ")
    found = [(counted(result.count(name), name), STYLES[name]) for name in SEVERITIES if result.count(name)]
    if not found:
        return line.append("no errors, no warnings", style="bold green")
    line.append_text(Text(", ").join(Text(*part) for part in found))
    if result.num_left_out:
        line.append(f"; training leaves out {counted(result.num_left_out, 'image')}")
    return line.append(" (all of them: --json)", style="dim")
