"""The live screen: one thread reads journals, one queries Slurm, and this one draws and reads keys without waiting."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.units import counted
from hpc_yolo.monitor.blocks import one_line
from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.snapshot import Collector, Snapshot
from hpc_yolo.monitor.tui.detail import Detail, DetailReader, detail_lines
from hpc_yolo.monitor.tui.keys import ACTIONS, PAGES, ScreenState, press, selected_index, shown_runs
from hpc_yolo.monitor.tui.screen import help_lines, list_lines, page_rows
from hpc_yolo.monitor.tui.terminal import Terminal
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.logs import OutputReader

FIRST_BUDGET_S = 0.2  # of reading, before something is shown
BUDGET_S = 0.5
IDLE_RATIO = 40.0  # a login node is shared: least ratio of the pause to the time of reading
REDRAW_S = 5.0  # without news: durations change
OUTPUT_LINES = 2000  # of a run: number of last lines that are kept
JOIN_S = 0.5  # for the reader to end


class OutputTail:
    """The last lines of a run's output."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._reader = OutputReader(run)
        self._lines: deque[str] = deque(maxlen=OUTPUT_LINES)

    def read(self) -> tuple[str, ...]:
        """Read what is new and return the last lines."""
        try:
            for line in self._reader.new_lines():
                self._lines.append(line.text if line.rank is None else f"{line.rank}: {line.text}")
        except OSError as error:
            return (f"{error.filename}: {error.strerror}",)
        return tuple(self._lines) or (f"no job of {self._run.name} has written output yet",)


class Watcher:
    """Keeps the newest snapshot, and the open page of one run, in threads of its own."""

    def __init__(self, collector: Collector, interval_s: float, on_change: Callable[[], None]) -> None:
        """Initialize the watcher.

        Args:
            interval_s: between two reads of the journals.
            on_change: called from a thread when there is something new to draw.
        """
        self._collector = collector
        self._interval_s = interval_s
        self._on_change = on_change
        self._ended, self._wanted = threading.Event(), threading.Event()
        self._open: tuple[str, str] | None = None
        self._reader: DetailReader | OutputTail | None = None
        self._read_of: tuple[str, str] | None = None
        self.snapshot: Snapshot | None = None
        self.detail: Detail | None = None
        self.output: tuple[str, ...] = ()
        self.error: Exception | None = None
        self._message: str | None = None
        self._thread = threading.Thread(target=self._work, name="status", daemon=True)
        # Slurm may be slow; journals and pages do not wait for it.
        self._slurm_thread = threading.Thread(target=self._query_slurm, name="status-slurm", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join(JOIN_S)

    def open(self, page: tuple[str, str] | None) -> None:
        """Read `page` (path of a run, detail or logs) from now on; None: only the list."""
        if page != self._open:
            self._open = page
            self._wanted.set()

    def run_action(self, action: Callable[[RunDirectory], str], run: RunDirectory) -> None:
        """Call `action` with `run` in a thread of its own; `take_message` returns its message."""

        def work() -> None:
            try:
                self._message = action(run)
            except HpcYoloError as error:
                self._message = error.message
            except Exception as error:
                self.error = error
            self._wanted.set()
            self._on_change()

        threading.Thread(target=work, name="status-action", daemon=True).start()

    def take_message(self) -> str | None:
        """Return the message of the last action, once."""
        message, self._message = self._message, None
        return message

    def _work(self) -> None:
        try:
            self._publish(self._collector.refresh(budget_s=FIRST_BUDGET_S, query_slurm=False))
            self._slurm_thread.start()
            while not self._ended.is_set():
                self._wanted.clear()
                started_s = time.monotonic()
                self._read_detail()
                snapshot = self._collector.refresh(budget_s=BUDGET_S, query_slurm=False)
                self._publish(snapshot)
                pause_s = max(self._interval_s, IDLE_RATIO * (time.monotonic() - started_s))
                self._wanted.wait(0.0 if snapshot.num_unread else pause_s)
        except Exception as error:  # raised by the thread that draws, which would otherwise draw old values for ever
            self.error = error
            self._on_change()

    def _query_slurm(self) -> None:
        try:
            while not self._ended.wait(self._interval_s):
                self._collector.query_slurm()
        except Exception as error:
            self.error = error
            self._on_change()

    def _publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._on_change()

    def _read_detail(self) -> None:
        page = self._open
        if page != self._read_of:
            self._reader, self._read_of, self.detail, self.output = None, page, None, ()
            if page is not None:
                run = RunDirectory(Path(page[0]))
                self._reader = OutputTail(run) if page[1] == "logs" else DetailReader(run)
        if isinstance(self._reader, OutputTail):
            self.output = self._reader.read()
        elif self._reader is not None:
            self.detail = self._reader.read()
        self._on_change()


def run_screen(
    collector: Collector, actions: Mapping[str, Callable[[RunDirectory], str]], *, interval_s: float
) -> None:
    """Show the live screen until it is left.

    Args:
        actions: by name, a function of the run whose message, or error for people, is shown.
        interval_s: between two reads of the journals.

    Raises:
        Ended: a signal ended it.
    """
    # EOFError: the terminal is gone.
    with contextlib.suppress(EOFError), Terminal().opened() as terminal:
        state = ScreenState()
        with Watcher(collector, interval_s, terminal.wake) as watcher:
            while state.action != "quit":
                if watcher.error is not None:
                    raise watcher.error
                runs = [] if watcher.snapshot is None else shown_runs(watcher.snapshot, state)
                state = settled(state, runs)
                if (message := watcher.take_message()) is not None:
                    state = replace(state, message=message)
                open_page = page(watcher.snapshot, watcher.detail, watcher.output, state, terminal.size[0])
                terminal.draw(frame(watcher.snapshot, open_page, runs, state, terminal.size))
                for key in terminal.keys(REDRAW_S):
                    last_scroll = max(0, len(open_page or ()) - (terminal.size[1] - 1))
                    state = press(settled(state, runs), key, runs, page_rows(terminal.size[1]), last_scroll)
                    is_open = state.mode in PAGES
                    watcher.open((state.selected, state.mode) if is_open and state.selected else None)
                    if state.action in actions and state.selected is not None:
                        watcher.run_action(actions[state.action], RunDirectory(Path(state.selected)))
                        state = replace(state, message=f"{state.action}: requested", action="")
                    if state.action == "quit":
                        break
                    if watcher.snapshot is not None:
                        runs = shown_runs(watcher.snapshot, state)


def settled(state: ScreenState, runs: Sequence[RunFacts]) -> ScreenState:
    """Return `state` with a selected run that is among `runs`: the one before, else the first."""
    if state.mode in PAGES or state.mode in ACTIONS.values():
        return state  # a page stays open when its run no longer passes the filter
    return replace(state, selected=runs[selected_index(runs, state.selected)].path if runs else None)


def page(
    snapshot: Snapshot | None, detail: Detail | None, output: Sequence[str], state: ScreenState, width: int
) -> list[Text] | None:
    """Return all lines of the open page; None where none is open."""
    run = next((run for run in snapshot.runs if run.path == state.selected), None) if snapshot is not None else None
    if snapshot is None or run is None or state.mode not in PAGES:
        return None
    if state.mode == "logs":
        return [Text(line[:width]) for line in output or ("reading its output",)]
    known = detail if detail is not None and detail.path == run.path else None
    return detail_lines(run, known, snapshot.time, width)


def frame(
    snapshot: Snapshot | None,
    open_page: Sequence[Text] | None,
    runs: Sequence[RunFacts],
    state: ScreenState,
    size: tuple[int, int],
) -> list[Text]:
    """Return the lines of the terminal, without control characters, whatever ranks, Slurm and specs contain.

    Args:
        open_page: as `page` made it.
    """
    width, height = size
    if snapshot is None:
        lines = [Text("reading", style="dim")]
    elif state.mode == "help":
        lines = help_lines()
    elif open_page is not None:
        lines = _visible_part(open_page, state, height)
    else:
        lines = list_lines(snapshot, runs, state, width, height)
    for line in lines:
        if not line.plain.isprintable():
            line.plain = one_line(line.plain)
    return lines


def _visible_part(open_page: Sequence[Text], state: ScreenState, height: int) -> list[Text]:
    """Return the part of `open_page` that fits, above a line with the number of lines outside it."""
    first = min(state.scroll, max(0, len(open_page) - (height - 1)))
    shown = list(open_page[first : first + height - 1])
    more = len(open_page) - first - len(shown)
    above = f"  {counted(first, 'line')} above" if first else ""
    below = f"  {counted(more, 'more line')} below" if more > 0 else ""
    other = "" if state.mode == "logs" else "  l logs"
    keys = Text(f"esc back  up down scroll{other}{above}{below}", style="dim")
    return [*shown, *[Text("")] * (height - 1 - len(shown)), keys]
