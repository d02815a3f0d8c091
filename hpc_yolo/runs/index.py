"""Index of a user's runs, to find them by name: one line a run in the user's state directory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import append_json_line, read_json_lines
from hpc_yolo.runs.directory import RunDirectory, is_unreadable, owner_name
from hpc_yolo.runs.sweep import SweepDirectory

FILE_NAME = "runs.jsonl"


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return this user's state directory: $XDG_STATE_HOME/hpc-yolo, else ~/.local/state/hpc-yolo."""
    home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".local" / "state")
    return Path(home) / "hpc-yolo"


def add_to_index(directory: Path, run: RunDirectory | SweepDirectory) -> None:
    """Add `run`, or a sweep, to the index.

    A directory that is not writable is ignored: the run matters more than the index.
    """
    path = str(run.path.absolute())
    with contextlib.suppress(OSError):
        if path not in _paths(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            append_json_line(directory / FILE_NAME, {"path": path})


def remove_from_index(directory: Path, run: RunDirectory) -> None:
    """Remove `run` from the index."""
    path = str(run.path.absolute())
    with contextlib.suppress(OSError):
        if path in _paths(directory):
            append_json_line(directory / FILE_NAME, {"removed": path})


def indexed_runs(directory: Path) -> list[RunDirectory]:
    """Return the runs in the index that still exist, oldest first."""
    return [run for path in indexed_paths(directory) if (run := RunDirectory(path)).exists]


def indexed_paths(directory: Path) -> list[Path]:
    """Return the paths of all runs and sweeps in the index, oldest first, whether they exist or not."""
    try:
        return [Path(path) for path in _paths(directory)]
    except OSError:
        return []


def gone_runs(directory: Path) -> list[Path]:
    """Return the paths of runs in the index that have been moved or removed since, oldest first."""
    paths = indexed_paths(directory)
    return [path for path in paths if not RunDirectory(path).exists and not SweepDirectory(path).exists]


def find_run(written: str, known: Sequence[RunDirectory], gone: Sequence[Path] = ()) -> RunDirectory:
    """Return the run with path or name `written`.

    Args:
        known: the runs that may be named.
        gone: paths of runs that have been moved or removed.

    Raises:
        RunError: there is none, or several have that name.
    """
    import difflib  # which only a mistake needs

    named = {run.path.resolve(): run for run in known if run.name == written}
    by_path = RunDirectory(Path(written).absolute())
    if by_path.exists:
        named.setdefault(by_path.path.resolve(), by_path)
    if len(named) == 1:
        return next(iter(named.values()))
    if SweepDirectory(by_path.path).exists:
        raise RunError(
            f"{written} is a sweep, of several runs", hint=f"hpc-yolo sweep --help, or one of them: {written}/1-0000"
        )
    if is_unreadable(by_path.path):
        raise RunError(f"{written}: belongs to {owner_name(by_path.path)}, and is not readable", hint="ask the owner")
    if named:
        paths = ", ".join(str(run.path) for run in named.values())
        raise RunError(f"{written}: several runs have that name: {paths}", hint="give the path of one")
    path = Path(written).absolute()
    if was_at := [str(old) for old in gone if written == old.name or path == old]:
        message = f"{written}: the run that was at {' and at '.join(was_at)} has been moved or removed"
        raise RunError(message, hint="give its new path; hpc-yolo list prints all runs")
    near = difflib.get_close_matches(written, sorted({run.name for run in known}))
    hint = f"did you mean {' or '.join(near)}?" if near else "hpc-yolo list prints all runs"
    raise RunError(f"{written}: no run has that name or path", hint=hint)


def _paths(directory: Path) -> dict[str, None]:
    """Return each path once, in the order of the lines, without those that were removed after they had been added."""
    paths: dict[str, None] = {}
    for record in read_json_lines(directory / FILE_NAME):
        if isinstance(path := record.get("path"), str):
            paths[path] = None
        elif isinstance(path := record.get("removed"), str):
            paths.pop(path, None)
    return paths
