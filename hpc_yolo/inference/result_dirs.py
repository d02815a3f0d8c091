"""Directories for results: new unless asked otherwise, their owner's alone, and marked as results."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from hpc_yolo.core.errors import RunError
from hpc_yolo.runs.directory import RunDirectory

MARKER = ".hpc-yolo-results"


def results_directory(project: Path, name: str, *, exist_ok: bool) -> Path:
    """Make `project`/`name`; with the first free number behind it, name2, name3 …, unless `exist_ok`.

    Raises:
        RunError: it cannot be made.
    """
    try:
        project.mkdir(parents=True, exist_ok=True)
        if exist_ok:
            (project / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            return _marked(project / name)
        for number in itertools.count(1):
            directory = project / (name if number == 1 else f"{name}{number}")
            try:
                directory.mkdir(mode=0o700, parents=True)
            except FileExistsError:
                continue
            return _marked(directory)
    except OSError as error:
        raise RunError(
            f"{project / name}: cannot be made: {error.strerror}", hint="give another place with --project DIR"
        ) from error
    raise AssertionError("there is always a next number")


def holds_results(directory: Path) -> bool:
    """Return whether images in `directory` are results, of predict, val or a training run, and no sources."""
    return os.path.exists(directory / MARKER) or RunDirectory(directory).exists  # noqa: PTH110, no error where it is closed


def _marked(directory: Path) -> Path:
    (directory / MARKER).touch()
    return directory
