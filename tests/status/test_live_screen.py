"""The live screen in a real terminal: it listens, follows its size and the journals, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from status_runs import END, EVALUATED, START, STEP, make_run, tell

DEADLINE_S = 20.0
POLL_S = 0.05
BROKEN = """
from hpc_yolo.status.app import run_screen
class Broken:
    def refresh(self, **options):
        raise ValueError("a mistake of our own")
run_screen(Broken(), {}, interval_s=1.0)
"""

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """A terminal of its own with a shell in it."""

    def __init__(self, folder: Path, columns: int, rows: int) -> None:
        self._words = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        variables = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "PS1": "$ ", "NO_COLOR": "1"}
        variables |= {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"], "LC_ALL": "C.UTF-8"}
        exported = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        shell = ["bash", "--norc", "--noprofile", "--noediting"]  # readline changes the terminal too
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), "-c", str(folder), *exported, *shell)

    def tmux(self, *words: str) -> str:
        return subprocess.run([*self._words, *words], capture_output=True, text=True, check=True).stdout

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def run(self, *words: str) -> None:
        """Run a command, and say its exit code afterwards."""
        self.type(f"{shlex.join(words)}; echo LEFT $?", "Enter")

    @property
    def text(self) -> str:
        return self.tmux("capture-pane", "-p")

    @property
    def modes(self) -> str:
        """Whether the other screen is shown, whether the cursor is, and the driver's settings."""
        device = self.tmux("display-message", "-p", "#{pane_tty}").strip()
        settings = subprocess.run(["stty", "-F", device, "-a"], capture_output=True, text=True, check=True).stdout
        return self.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}") + settings

    def wait_for(self, *words: str, without: str = "\0") -> str:
        return awaited(
            lambda: self.text, lambda text: all(word in text for word in words) and without not in text, str(words)
        )

    def screen_pid(self) -> int:
        """The process that runs in the foreground."""
        shell = int(self.tmux("display-message", "-p", "#{pane_pid}"))
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])

    def close(self) -> None:
        subprocess.run([*self._words, "kill-server"], capture_output=True, check=False)


def awaited(see: Callable[[], str], is_right: Callable[[str], bool], what: str) -> str:
    deadline = time.monotonic() + DEADLINE_S
    while not is_right(seen := see()):
        assert time.monotonic() < deadline, f"never saw {what}, but:\n{seen}"
        time.sleep(POLL_S)
    return seen


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
    tell(first, START, STEP, EVALUATED)
    (first.jobs / "7.log").write_text("".join(f"0: line {number}\n" for number in range(100)))
    tell(make_run(root, "second"), START, END | {"outcome": "failed", "detail": "ValueError: bad", "requeued": False})
    return root


def status_words(runs: Path) -> list[str]:
    return [sys.executable, "-m", "hpc_yolo", "status", "--root", str(runs)]


@pytest.mark.parametrize("terminal", [(80, 24), (200, 50)], indirect=True, ids=str)
def test_a_person_looks_around_and_leaves(terminal, runs):
    before = terminal.modes
    terminal.run(*status_words(runs))
    shown = terminal.wait_for("1 failed", "1 running", "? help")
    assert shown.index("second") < shown.index("first ")  # what failed comes first
    terminal.type("j", "Enter")
    terminal.wait_for("curves", "job 7")
    terminal.type("G")
    terminal.wait_for("attempts, by cause")
    terminal.wait_for("where its time went")
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
    tell(make_run(runs, "first", executor=None), STEP | {"step": 123, "images_per_s": 77.7})
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
        lambda: Path(f"/proc/{pid}/wchan").read_text(), lambda place: "woken" in place or "write" in place, "a write"
    )
    os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (lambda terminal: os.kill(terminal.screen_pid(), signal.SIGTERM), "LEFT 143"),
        (lambda terminal: os.kill(terminal.screen_pid(), signal.SIGHUP), "LEFT 129"),
        (storm, "LEFT"),
        (held_up, "LEFT 143"),
        (lambda terminal: terminal.type("C-c"), "LEFT 130"),
    ],
    ids=["SIGTERM", "SIGHUP", "storm", "held up", "Ctrl-C"],
)
def test_the_terminal_is_as_before_after_a_signal(terminal, runs, leave, words):
    before = terminal.modes
    terminal.run(*status_words(runs))
    terminal.wait_for("? help")
    assert terminal.modes != before
    leave(terminal)
    assert "Traceback" not in terminal.wait_for(words)
    assert terminal.modes == before


def test_the_terminal_is_as_before_after_a_mistake_of_our_own(terminal):
    before = terminal.modes
    terminal.run(sys.executable, "-c", BROKEN)
    terminal.wait_for("ValueError: a mistake of our own", "LEFT 1")
    assert terminal.modes == before


def test_the_shell_has_its_terminal_while_the_screen_is_stopped(terminal, runs):
    before = terminal.modes
    terminal.type(shlex.join(status_words(runs)), "Enter")
    terminal.wait_for("? help")
    terminal.type("C-z")
    terminal.wait_for("Stopped")
    assert terminal.modes.splitlines()[0] == before.splitlines()[0]
    terminal.type("fg", "Enter")
    terminal.wait_for("? help", "first ")
    terminal.type("q")
    terminal.wait_for("$", without="? help")
    assert terminal.modes == before


def test_a_terminal_that_changes_its_size_is_filled_again(terminal, runs):
    terminal.run(*status_words(runs))
    terminal.wait_for("? help", without="mAP trend")
    terminal.tmux("resize-window", "-x", "200", "-y", "40")
    terminal.wait_for("mAP trend", "? help")
    assert "? help" in terminal.text.splitlines()[39]
    terminal.tmux("resize-window", "-x", "30", "-y", "5")
    terminal.wait_for("at least")


def test_a_screen_whose_terminal_is_gone_ends(terminal, runs):
    terminal.run(*status_words(runs))
    terminal.wait_for("? help")
    pid = terminal.screen_pid()
    terminal.close()
    awaited(lambda: str(Path(f"/proc/{pid}").exists()), lambda exists: exists == "False", "the end of the screen")
