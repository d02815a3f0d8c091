"""The console of commands that print texts of data: names of classes and runs, paths, messages."""

from __future__ import annotations

from rich.console import Console


def data_console(*, pipe_columns: int | None = None, highlight: bool = True) -> Console:
    """Return a console that prints every text as it is: by default rich takes [red] for a style and :car: for an image.

    Args:
        pipe_columns: width where the output is not a terminal, which has no width of its own; None: rich's own choice.
    """
    console = Console(highlight=highlight, markup=False, emoji=False)
    if pipe_columns is not None and not console.file.isatty():  # is_terminal follows FORCE_COLOR too
        console.width = pipe_columns
    return console
