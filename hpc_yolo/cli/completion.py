"""`hpc-yolo completion`: print the script with which a shell completes commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: commands, options and names of runs.

    \b
    bash: add to ~/.bashrc                    eval "$(hpc-yolo completion bash)"
    zsh:  add to ~/.zshrc, after compinit     eval "$(hpc-yolo completion zsh)"
    fish: add to ~/.config/fish/config.fish   hpc-yolo completion fish | source
    """
    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(context.find_root().command, {}, "hpc-yolo", "_HPC_YOLO_COMPLETE").source())
