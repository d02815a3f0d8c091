"""Directories for results: new by default, private to their owner, and marked as results."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from hpc_yolo.core.errors import RunError
from hpc_yolo.runs.directory import RunDirectory

MARKER = ".hpc-yolo-results"


def results_directory(project: Path, name: str, *, exist_ok: bool) -> Path:
    """Create `project`/`name`; if it exists, name2, name3 …, unless `exist_ok`.

    Raises:
        RunError: it cannot be created.
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
            f"{project / name}: cannot be created: {error.strerror}", hint="give another directory with --project DIR"
        ) from error
    raise AssertionError("unreachable: the numbers are unbounded")


def holds_results(directory: Path) -> bool:
    """Return True if images in `directory` are results of predict, val or a run, and not sources."""
    return os.path.exists(directory / MARKER) or RunDirectory(directory).exists  # noqa: PTH110, no error if it is not readable


def _marked(directory: Path) -> Path:
    (directory / MARKER).touch()
    return directory
