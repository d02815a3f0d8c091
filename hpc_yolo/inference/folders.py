"""Folders for results: new unless asked otherwise, and their owner's alone."""

from __future__ import annotations

import itertools
from pathlib import Path

from hpc_yolo.errors import RunError


def results_folder(project: Path, name: str, *, exist_ok: bool) -> Path:
    """`project`/`name`, made; with the first free number behind it, name2, name3 …, unless `exist_ok`.

    Raises:
        RunError: it cannot be made.
    """
    try:
        project.mkdir(parents=True, exist_ok=True)
        if exist_ok:
            (project / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            return project / name
        for number in itertools.count(1):
            folder = project / (name if number == 1 else f"{name}{number}")
            try:
                folder.mkdir(mode=0o700, parents=True)
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise RunError(
            f"{project / name}: cannot be made: {error.strerror}", hint="give another place with --project FOLDER"
        ) from error
    raise AssertionError("there is always a next number")
