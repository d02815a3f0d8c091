"""Progress bars: on a terminal they move, in a pipe they become a few plain lines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@contextlib.contextmanager
def counting(title: str, total: int | None) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for (done, total) that moves a bar. `total`: None where it is not known before."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def counting_bytes(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a callback for (bytes done, bytes in all) that moves a bar, which appears with the first byte."""
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)
