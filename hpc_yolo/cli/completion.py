"""`hpc-yolo completion`: the line that teaches a shell to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    bash: add `eval "$(hpc-yolo completion bash)"` to ~/.bashrc; zsh and fish likewise.
    """
    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(context.find_root().command, {}, "hpc-yolo", "_HPC_YOLO_COMPLETE").source())
