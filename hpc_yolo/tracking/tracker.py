"""The interface of all trackers, and what a tracker gets to know about a run."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hpc_yolo.core.errors import InstallationError, TrackerError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.series import Row
from hpc_yolo.runs.sweep import SweepDirectory

# Sections of a spec that say nothing about what is learned; values of cluster.env may be secret.
LEFT_OUT = ("cluster", "validate_cluster", "tracking", "notify", "then")

MAX_CHARACTERS = 300  # of a message; those of databases have the whole statement
_USER = re.compile(r"(?<=://)[^/\s]*@")  # of an address, with its password


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker shows it.

    Attributes:
        id: the same for all attempts and all processes that follow the run.
        config: its spec, in sections.
        directory: for the files of trackers.
    """

    id: str
    name: str
    config: Mapping[str, Any]
    directory: Path

    @property
    def file_name(self) -> str:
        """The name of its file, without a suffix, in a directory that may have files of other runs."""
        return f"{self.name}-{self.id[:8]}"

    @property
    def flat_config(self) -> dict[str, Any]:
        """The values of the spec by dotted names."""
        return dict(_flat(self.config, ""))


class Tracker(abc.ABC):
    """One run in one tracker.

    A process that follows the run may be killed at any moment. So the number of rows that the tracker has is not kept
    anywhere else: `open` reads it from the tracker.
    """

    @abc.abstractmethod
    def open(self, run: TrackedRun) -> int:
        """Begin or resume the tracked run, and return the number of rows that it has.

        Raises:
            TrackerError: the tracker refuses, or does not answer.
            InstallationError: its package is not installed.
        """

    @abc.abstractmethod
    def log(self, rows: Sequence[Row]) -> None:
        """Append `rows`.

        Raises:
            TrackerError: the tracker refuses, or does not answer.
        """

    def close(self, end: RunEnd | None) -> None:  # noqa: B027  # files need nothing at their end
        """Leave the tracked run: ended as `end` says, or to be continued (None).

        Raises:
            TrackerError: the tracker refuses, or does not answer.
        """

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """Where the tracked run is, as a text for the user."""


def run_identity(run: RunDirectory) -> str | None:
    """Return the id of a run in trackers; None before its first event.

    It is derived from the first line of the journal, which no attempt changes. A new run under an old name has another.
    """
    try:
        with run.journal.open("rb") as file:
            line = file.readline()
    except FileNotFoundError:
        return None
    return hashlib.sha256(line).hexdigest()[:16] if line.endswith(b"\n") else None


def shown_name(run: RunDirectory) -> str:
    """Return the name of a run in trackers; that of a trial begins with the name of its sweep."""
    parent = run.path.absolute().parent
    return f"{parent.name}-{run.name}" if SweepDirectory(parent).exists else run.name


def run_config(run: RunDirectory) -> dict[str, Any]:
    """Return the sections of a run's spec that a tracker shows; none of a spec that cannot be read."""
    try:
        spec = yaml.safe_load(run.spec.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return {name: value for name, value in spec.items() if name not in LEFT_OUT} if isinstance(spec, dict) else {}


def imported(module: str, package: str, extra: str) -> Any:
    """Return an optional module.

    Raises:
        InstallationError: it is not installed; the hint names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InstallationError(
            f"the package {package} cannot be imported by {sys.executable}: {error}",
            hint=f"pip install 'hpc-yolo[{extra}]'",
        ) from error


@contextlib.contextmanager
def tracker_errors(name: str, *kinds: type[Exception], hint: str | None = None) -> Iterator[None]:
    """Turn exceptions of `kinds`, those of a tracker's package, into TrackerError with `hint`."""
    try:
        yield
    except kinds as error:
        text = without_user(" ".join(str(error).split())) or type(error).__name__
        raise TrackerError(f"{name}: {text[:MAX_CHARACTERS]}", hint=hint) from error


def without_user(text: str) -> str:
    """Return `text` without the user and the password of the addresses in it: it is printed and logged."""
    return _USER.sub("", text)


def _flat(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
