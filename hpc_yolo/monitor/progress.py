"""Progress bars: on a terminal they move, in a pipe they become a few plain lines."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

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

STDOUT, STDERR = 1, 2
SHOW_CURSOR = b"\x1b[?25h"


@contextlib.contextmanager
def shown_cursor_after_sigterm() -> Iterator[None]:
    """Show the cursor, which a bar on the terminal hides, when SIGTERM ends this process inside the block."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _show_cursor_and_end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _show_cursor_and_end(number: int, _frame: FrameType | None) -> None:
    for stream in filter(os.isatty, (STDOUT, STDERR)):
        with contextlib.suppress(OSError):
            os.write(stream, SHOW_CURSOR)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def counting(title: str, total: int | None) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for (done, total) that moves a bar. `total`: None where it is not known before."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown_cursor_after_sigterm(), bar as progress:
        task = progress.add_task(title, total=total)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def counting_bytes(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a callback for (bytes done, bytes in all) that moves a bar, which appears with the first byte."""
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with shown_cursor_after_sigterm(), Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)
