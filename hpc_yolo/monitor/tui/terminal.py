"""The terminal as a full screen: single keys, whole frames, and its former state restored in the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from io import StringIO
from types import FrameType
from typing import Any

from rich.console import Console
from rich.text import Text

from hpc_yolo.monitor.tui.keys import decode_keys, end_of_keys

ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, no cursor
LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
KEY_GAP_S = 0.05  # within which the rest of a key's bytes follow
SIGNAL_BASE = 128
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)


class Ended(SystemExit):
    """A signal has ended the program; the terminal is restored on the way out."""


class Terminal:
    """The terminal on standard input and output, in use while `opened` lasts."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        self._output = sys.stdout.fileno()
        self._rest = b""
        self._shown: list[str] = []
        self._shown_size = (0, 0)
        self._is_stale = True
        self._is_drawing = self._pause_requested = False
        self._ended_by = 0
        self._before: list[Any] | None = None
        self._renderer = Console(file=StringIO(), force_terminal=True, legacy_windows=False)
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Terminal]:
        """Take the terminal, and restore it however the block ends, by a signal too.

        Raises:
            Ended: SIGTERM, SIGHUP or SIGQUIT came.
        """
        self._before = before = termios.tcgetattr(self._input)
        ours: dict[signal.Signals, Any] = dict.fromkeys(ENDING, self._note_end)
        ours |= {signal.SIGWINCH: lambda *_: self.wake(), signal.SIGTSTP: self._note_pause}
        handlers = {number: signal.getsignal(number) for number in ours}
        try:
            for number, handler in ours.items():
                signal.signal(number, handler)
            self._take()
            yield self
        finally:
            # These handlers stay until the end: a second signal must not interrupt the restoring.
            self._restore(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(self._wake_in)
            os.close(self._wake_out)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(self._output)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def wake(self) -> None:
        """End the wait for keys, from any thread, because there is something new to draw."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_in, b"!")

    def keys(self, timeout_s: float) -> list[str]:
        """Return the keys that were pressed; [] when woken, resized, or after `timeout_s`.

        Raises:
            EOFError: the terminal is gone.
            Ended, KeyboardInterrupt: a signal came.
        """
        self._handle_signals()
        ready, _, _ = select.select([self._input, self._wake_out], [], [], KEY_GAP_S if self._rest else timeout_s)
        if self._wake_out in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_out, 4096)
            self._handle_signals()
        if self._input in ready:
            try:
                received = os.read(self._input, 4096)
            except OSError as error:
                raise EOFError from error
            if not received:
                raise EOFError
            keys, self._rest = decode_keys(self._rest + received)
            return keys
        keys, self._rest = (end_of_keys(self._rest), b"") if not ready else ([], self._rest)
        return keys

    def draw(self, lines: Sequence[Text]) -> None:
        """Show `lines`, each cut to the width; only those that differ from the frame before are written."""
        size = self.size
        width, height = size
        is_stale, self._is_stale = self._is_stale or size != self._shown_size, False
        frame = [self._rendered(line, width) for line in lines[:height]]
        frame += [""] * (height - len(frame))
        before = [None] * height if is_stale else self._shown
        changed = [
            f"\x1b[{number + 1};1H{line}\x1b[0m\x1b[K" for number, line in enumerate(frame) if before[number] != line
        ]
        self._shown, self._shown_size = frame, size
        if changed:
            self._is_drawing = True  # may block where the terminal is stopped, so a signal ends it
            self._handle_signals()
            self._write(("\x1b[2J" if is_stale else "") + "".join(changed))
            self._is_drawing = False

    def _rendered(self, line: Text, width: int) -> str:
        shortened = line.copy()
        shortened.truncate(width, overflow="ellipsis")
        with self._renderer.capture() as captured:
            self._renderer.print(shortened, end="", soft_wrap=True, highlight=False)
        return captured.get()

    def _take(self) -> None:
        self._is_stale = True
        tty.setcbreak(self._input)
        self._write(ENTER)

    def _restore(self, before: list[object]) -> None:
        # The terminal may be gone; what is left of it is restored.
        with contextlib.suppress(termios.error):
            # Ctrl-S may have stopped it; Linux resumes only output that a program has stopped.
            termios.tcflow(self._output, termios.TCOOFF)
            termios.tcflow(self._output, termios.TCOON)
        with contextlib.suppress(OSError):
            self._write(LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._input, termios.TCSADRAIN, before)  # type: ignore[arg-type]

    def _write(self, text: str) -> None:
        content = text.encode(errors="replace")
        while content:
            content = content[os.write(self._output, content) :]

    def _note_end(self, number: int, _frame: FrameType | None) -> None:
        self._ended_by = number
        if self._is_drawing:
            self._is_drawing = False
            self._handle_signals()
        self.wake()

    def _note_pause(self, *_: object) -> None:
        self._pause_requested = True
        self.wake()

    def _handle_signals(self) -> None:
        """Act on the signals since the last call. Handlers only set flags: an exception in one may get lost."""
        if self._ended_by == signal.SIGINT:
            raise KeyboardInterrupt
        if self._ended_by:
            raise Ended(SIGNAL_BASE + self._ended_by)
        if self._pause_requested:
            self._pause_requested = False
            before = self._before
            assert before is not None
            self._restore(before)
            os.kill(os.getpid(), signal.SIGSTOP)  # the shell has the terminal until it continues this process
            self._take()
