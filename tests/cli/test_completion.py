"""Completion of commands and run names in real shells."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from status_runs import make_run
from tmux_terminal import Terminal

from hpc_yolo.runs.index import add_to_index, state_directory

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile"], 'eval "$(hpc-yolo completion bash)"'),
    "zsh": (["zsh", "-f"], 'autoload -U compinit; compinit -D; eval "$(hpc-yolo completion zsh)"'),
    "fish": (["fish", "--no-config"], "hpc-yolo completion fish | source"),
}


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes_commands_and_run_names(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for name in ("a-night-of-training", "another"):
        add_to_index(state_directory(os.environ), make_run(tmp_path / "runs", name, executor=None))
    command, first_line = SHELLS[shell]
    assert (Path(sys.executable).parent / "hpc-yolo").exists(), (
        "the command is installed in the environment of the tests"
    )
    terminal = Terminal(tmp_path, 100, 20, command)
    try:
        terminal.type(f"{first_line}; echo rea{shlex.quote('d')}y", "Enter")
        terminal.wait_for("\nready")
        terminal.type("C-l", "hpc-yolo comple", "Tab")  # on an empty screen
        terminal.wait_for("hpc-yolo completion")
        terminal.type("C-u", "hpc-yolo logs a-n", "Tab")
        terminal.wait_for("hpc-yolo logs a-night-of-training")
    finally:
        terminal.close()
