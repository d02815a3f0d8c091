"""A real terminal, by tmux, for the tests of what users see and type."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from waiting import PATIENCE_S, POLL_S

PLAIN_SHELL = ("bash", "--norc", "--noprofile", "--noediting")  # readline changes the terminal too
KEPT = ("PYTHONPATH", "XDG_STATE_HOME", "SLURM_CONF")


class Terminal:
    """A terminal of its own with a shell in it."""

    def __init__(self, directory: Path, columns: int, rows: int, shell: Sequence[str] = PLAIN_SHELL) -> None:
        self._command = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
        variables = {name: os.environ[name] for name in KEPT if name in os.environ}
        variables |= {"HOME": str(directory), "PS1": "$ ", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
        exported = [option for name, value in variables.items() for option in ("-e", f"{name}={value}")]
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), "-c", str(directory), *exported, *shell)

    def tmux(self, *command: str) -> str:
        """Run a tmux command on this terminal; return its output."""
        # A new session takes its PATH from the program that asks for it.
        environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run([*self._command, *command], capture_output=True, text=True, check=True, env=environ)
        return done.stdout

    def type(self, *keys: str) -> None:
        """Press keys, by their tmux names."""
        self.tmux("send-keys", *keys)

    def run(self, *command: str) -> None:
        """Run a command, and print its exit code afterwards."""
        self.type(f"{shlex.join(command)}; echo LEFT $?", "Enter")

    @property
    def text(self) -> str:
        """The text of the screen."""
        return self.tmux("capture-pane", "-p")

    @property
    def modes(self) -> str:
        """Whether the alternate screen and the cursor are shown, and the settings of the terminal driver."""
        device = self.tmux("display-message", "-p", "#{pane_tty}").strip()
        settings = subprocess.run(["stty", "-F", device, "-a"], capture_output=True, text=True, check=True).stdout
        return self.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}") + settings

    def wait_for(self, *texts: str, without: str = "\0") -> str:
        """Return the text of the terminal once it contains all `texts`."""
        return awaited(
            lambda: self.text,
            lambda text: all(wanted in text for wanted in texts) and without not in text,
            str(texts),
        )

    def screen_pid(self) -> int:
        """Return the process that runs in the foreground."""
        shell = int(self.tmux("display-message", "-p", "#{pane_pid}"))
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])

    def close(self) -> None:
        """End the shell and the terminal."""
        subprocess.run([*self._command, "kill-server"], capture_output=True, check=False)


def awaited(see: Callable[[], str], is_right: Callable[[str], bool], what: str) -> str:
    """Return the value of `see` once it is right."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_right(seen := see()):
        assert time.monotonic() < deadline, f"never saw {what}, but:\n{seen}"
        time.sleep(POLL_S)
    return seen
