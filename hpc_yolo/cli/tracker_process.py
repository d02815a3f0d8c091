"""The process that brings a run to its tracker while a command follows the run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from hpc_yolo.core.files import make_directory
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.tracking import TrackingSpec

END_S = 60.0  # for the last values, to a tracker that answers


@contextlib.contextmanager
def tracker_process(
    run: RunDirectory, tracking: TrackingSpec, environ: Mapping[str, str], has_ended: Callable[[], bool]
) -> Iterator[None]:
    """Follow `run` for its tracker in a process of its own while the block runs, and print the result.

    Args:
        run: or a sweep, as one that has its directory.
        environ: environment variables of the process.
        has_ended: returns whether the process will end by itself.
    """
    log, later = run.tracking / "process.log", f"hpc-yolo track {run.word}"
    try:
        process = _started(run, log, environ)
    except OSError as error:
        process = None
        click.echo(f"{tracking.to}: cannot be started: {error}; {later} adds the values")
    if process is None:  # which stops neither the run nor what follows it
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S if has_ended() else 0.0)
        is_complete = process.poll() == 0
        process.kill()  # which loses nothing
        process.wait()
        output = ""
        with contextlib.suppress(OSError):
            output = log.read_text(errors="replace")
        click.echo(f"{tracking.to}: {last_message(output) or 'nothing was logged'}")
        if not is_complete:
            click.echo(f"{tracking.to} lacks the newest steps; {later} adds them")


def last_message(output: str) -> str:
    """Return the last message in the output of the process as one line: a hint is the second line of its error."""
    lines = output.strip().splitlines()
    is_hint = bool(lines) and lines[-1].startswith("  hint: ")
    return "; ".join(map(str.strip, lines[-2 if is_hint else -1 :]))


def _started(run: RunDirectory, log: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process, whose output goes to `log`.

    Raises:
        OSError: it cannot be started, or its log cannot be written.
    """
    make_directory(run.tracking)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "hpc_yolo", "track-beside", str(run.path)],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C of the terminal stops the training, whose end it waits for
        )
