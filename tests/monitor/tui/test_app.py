"""The live screen in a real terminal: it listens, follows its size and the journals, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from status_runs import END, EVALUATED, START, STEP, append_events, make_run
from tmux_terminal import Terminal, awaited

BROKEN = """
from hpc_yolo.monitor.tui.app import run_screen
class Broken:
    def refresh(self, **options):
        raise ValueError("a mistake of our own")
run_screen(Broken(), {}, interval_s=1.0)
"""

pytestmark = [pytest.mark.measured, pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")]


@pytest.fixture
def terminal(tmp_path, request) -> Iterator[Terminal]:
    opened = Terminal(tmp_path, *getattr(request, "param", (80, 24)))
    try:
        opened.wait_for("$")
        yield opened
    finally:
        opened.close()


@pytest.fixture
def runs(tmp_path) -> Path:
    root = tmp_path / "runs"
    first = make_run(root, "first")
    append_events(first, START, STEP, EVALUATED)
    (first.jobs / "7.log").write_text("".join(f"0: line {number}\n" for number in range(100)))
    append_events(
        make_run(root, "second"), START, END | {"outcome": "failed", "detail": "ValueError: bad", "requeued": False}
    )
    return root


def status_command(runs: Path) -> list[str]:
    return [sys.executable, "-m", "hpc_yolo", "status", "--root", str(runs)]


@pytest.mark.parametrize("terminal", [(80, 24), (200, 50)], indirect=True, ids=str)
def test_keys_open_pages_filter_and_quit(terminal, runs):
    before = terminal.modes
    terminal.run(*status_command(runs))
    shown = terminal.wait_for("1 failed", "1 running", "? help")
    assert shown.index("second") < shown.index("first ")  # what failed comes first
    terminal.type("j", "Enter")
    terminal.wait_for("curves", "job 7")
    terminal.type("G")
    terminal.wait_for("attempts, by cause")
    terminal.wait_for("time by kind")
    terminal.type("l")
    terminal.wait_for("0: line 99", "lines above")
    terminal.type("g")
    terminal.wait_for("0: line 0", "more lines below")
    terminal.type("Escape")
    terminal.wait_for("? help")
    terminal.type("?")
    terminal.wait_for("any key goes back")
    terminal.type("x")
    terminal.type("/", "s", "e", "c")
    terminal.wait_for("/sec_", without="first ")
    terminal.type("Escape")
    terminal.wait_for("first ")
    append_events(make_run(runs, "first", executor=None), STEP | {"step": 123, "images_per_s": 77.7})
    terminal.wait_for("77.7")  # without a key
    terminal.type("c")
    terminal.wait_for("y / n")
    terminal.type("n", "q")
    terminal.wait_for("LEFT 0")
    assert terminal.modes == before


def storm(terminal: Terminal) -> None:
    """SIGTERM again and again until the screen has gone: no moment of its leaving may be hit by one."""
    pid = terminal.screen_pid()
    with contextlib.suppress(ProcessLookupError):
        for _ in range(100_000):
            os.kill(pid, signal.SIGTERM)


def held_up(terminal: Terminal) -> None:
    """Ctrl-S, and something to draw: the screen waits in a write that never ends."""
    terminal.type("C-s", "?")
    pid = terminal.screen_pid()
    awaited(
        lambda: Path(f"/proc/{pid}/wchan").read_text(),
        lambda channel: "woken" in channel or "write" in channel,
        "a write",
    )
    os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("leave", "expected"),
    [
        (lambda terminal: os.kill(terminal.screen_pid(), signal.SIGTERM), "LEFT 143"),
        (lambda terminal: os.kill(terminal.screen_pid(), signal.SIGHUP), "LEFT 129"),
        (storm, "LEFT"),
        (held_up, "LEFT 143"),
        (lambda terminal: terminal.type("C-c"), "LEFT 130"),
    ],
    ids=["SIGTERM", "SIGHUP", "storm", "held up", "Ctrl-C"],
)
def test_signal_restores_the_terminal(terminal, runs, leave, expected):
    before = terminal.modes
    terminal.run(*status_command(runs))
    terminal.wait_for("? help")
    assert terminal.modes != before
    leave(terminal)
    assert "Traceback" not in terminal.wait_for(expected)
    assert terminal.modes == before


def test_sigterm_shows_the_cursor_that_a_bar_has_hidden(terminal, tmp_path):
    run = make_run(tmp_path, "live", executor="local")  # of another machine, and so alive
    append_events(run, START, STEP)
    before = terminal.modes
    terminal.run(sys.executable, "-m", "hpc_yolo", "follow", str(run.path))
    terminal.wait_for("step 10/400")
    assert terminal.modes != before
    os.kill(terminal.screen_pid(), signal.SIGTERM)
    terminal.wait_for("LEFT 143")
    assert terminal.modes == before


def test_exception_restores_the_terminal(terminal):
    before = terminal.modes
    terminal.run(sys.executable, "-c", BROKEN)
    terminal.wait_for("ValueError: a mistake of our own", "LEFT 1")
    assert terminal.modes == before


def test_stopped_screen_gives_the_terminal_to_the_shell(terminal, runs):
    before = terminal.modes
    terminal.type(shlex.join(status_command(runs)), "Enter")
    terminal.wait_for("? help")
    terminal.type("C-z")
    terminal.wait_for("Stopped")
    assert terminal.modes.splitlines()[0] == before.splitlines()[0]
    terminal.type("fg", "Enter")
    terminal.wait_for("? help", "first ")
    terminal.type("q")
    terminal.wait_for("$", without="? help")
    assert terminal.modes == before


def test_resized_terminal_is_redrawn(terminal, runs):
    terminal.run(*status_command(runs))
    terminal.wait_for("? help", without="mAP trend")
    terminal.tmux("resize-window", "-x", "200", "-y", "40")
    terminal.wait_for("mAP trend", "? help")
    assert "? help" in terminal.text.splitlines()[39]
    terminal.tmux("resize-window", "-x", "30", "-y", "5")
    terminal.wait_for("must be at least")


def test_screen_ends_when_its_terminal_is_gone(terminal, runs):
    terminal.run(*status_command(runs))
    terminal.wait_for("? help")
    pid = terminal.screen_pid()
    terminal.close()
    awaited(lambda: str(Path(f"/proc/{pid}").exists()), lambda exists: exists == "False", "the end of the screen")
