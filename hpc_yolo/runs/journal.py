"""The journal of a run: rank 0 appends events; any number of readers follow it.

Follow one with jq:  tail -f journal.jsonl | jq -r 'select(.event == "epoch") | [.epoch, .losses.box, .lr] | @tsv'
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import append_line
from hpc_yolo.runs.events import FORMAT_VERSION, AnyEvent, AttemptStarted

MAX_UNWRITTEN = 10_000
_STEP_LINE, _START_LINE = b'{"event":"step",', b'{"event":"attempt_started",'  # as the writer begins them
_DECODER = msgspec.json.Decoder(AnyEvent)


class _Format(msgspec.Struct):
    """The one field of the start of an attempt that every format has."""

    format_version: int


class JournalWriter:
    """Appends the events of one attempt, and passes each to `on_event`. Only rank 0 has one.

    A full or failing disk does not end the training: events that cannot be written are kept, and written later.
    """

    def __init__(
        self,
        path: Path,
        attempt: int,
        clock: Callable[[], float] = time.time,
        on_event: Callable[[AnyEvent], None] = lambda _event: None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        """Initialize the journal writer.

        Args:
            path: of the journal.
            attempt: the number of the attempt that writes.
            clock: returns seconds since 1970.
            on_event: called with each event after it is written.
            before_write: called before every line; what it raises stops that line.
        """
        self.attempt = attempt
        self._path = path
        self._clock = clock
        self._on_event = on_event
        self._before_write = before_write
        self._unwritten: deque[bytes] = deque(maxlen=MAX_UNWRITTEN)

    def write(self, event: AnyEvent) -> None:
        """Append `event` with this attempt and the time. A value that is not finite becomes null."""
        stamped = msgspec.structs.replace(event, time=self._clock(), attempt=self.attempt)
        self._unwritten.append(_encode(stamped))
        was_refused = len(self._unwritten) > 1
        try:
            while self._unwritten:
                self._before_write()
                append_line(self._path, self._unwritten[0])
                self._unwritten.popleft()
        except OSError as error:
            if not was_refused:  # reported once, on a stream that the file system does not stop
                message = f"{self._path} cannot be written: {error.strerror or error}; its events wait in memory"
                print(message, file=sys.stderr, flush=True)
        self._on_event(stamped)


class JournalReader:
    """Reads a journal that grows: each call returns the events since the one before."""

    def __init__(self, path: Path, offset_bytes: int = 0) -> None:
        self._path = path
        self._offset_bytes = offset_bytes

    def new_events(self, max_steps: int | None = None) -> list[AnyEvent]:
        """Return the events of the complete lines added since the last call; none where there is no journal yet.

        Args:
            max_steps: of the events of single steps, return only about this number, evenly spaced, and the last one. A
                screen of many runs needs no more, and reading a journal takes a fraction of the time.

        Raises:
            RunError: the journal has an older format.
        """
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset_bytes)
                added = file.read()
        except FileNotFoundError:
            return []
        whole_bytes = added.rfind(b"\n") + 1
        lines = added[:whole_bytes].split(b"\n")
        wanted = lines if max_steps is None else _without_most_steps(lines, max_steps)
        events = list(_parse_events(self._path, wanted))
        self._offset_bytes += whole_bytes  # what was refused is refused at the next call too
        return events


def read_events(path: Path) -> list[AnyEvent]:
    """Return the events in a journal, oldest first; lines of unknown events are skipped.

    Raises:
        RunError: the journal has an older format.
    """
    return JournalReader(path).new_events()


def read_tail(path: Path, max_bytes: int) -> tuple[AttemptStarted | None, list[AnyEvent]]:
    """Return (the first start of an attempt, the events in the last `max_bytes`) of the journal `path`.

    Raises:
        OSError: it cannot be read.
        RunError: the journal has an older format.
    """
    with open(path, "rb") as file:
        line = next((line for line in file if line.startswith(_START_LINE)), b"")
        size_bytes = file.seek(0, 2)
    first = next((event for event in _parse_events(path, [line]) if isinstance(event, AttemptStarted)), None)
    # Begins inside a line, which the reader skips.
    return first, JournalReader(path, max(0, size_bytes - max_bytes)).new_events()


def require_format(path: Path) -> None:
    """Return if the journal `path` has a format that this version reads, or does not exist yet.

    Raises:
        RunError: it has an older format.
    """
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(_START_LINE):
                    _require_format(path, line)
                    return
    except OSError:
        return


def _require_format(path: Path, start_line: bytes) -> None:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        version = msgspec.json.decode(start_line, type=_Format).format_version
        if version < FORMAT_VERSION:
            raise RunError(
                f"{path.parent}: written by an older version of hpc-yolo (journal format {version}, "
                f"this version reads {FORMAT_VERSION})",
                hint="continue with the version that wrote it, or train under another name",
            )


def _encode(event: AnyEvent) -> bytes:
    """Return `event` as JSON; numbers that are not finite become null."""
    try:
        return msgspec.json.encode(event)
    except UnicodeEncodeError:  # a file name that is not UTF-8
        return json.dumps(msgspec.to_builtins(event), ensure_ascii=False).encode(errors="replace")


def _parse_events(path: Path, lines: Iterable[bytes]) -> Iterator[AnyEvent]:
    for line in lines:
        if line.startswith(_START_LINE):
            _require_format(path, line)
        try:
            yield _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue


def _without_most_steps(lines: list[bytes], max_steps: int) -> Iterator[bytes]:
    indices = [index for index, line in enumerate(lines) if line.startswith(_STEP_LINE)]
    kept = set(indices[:: -(-len(indices) // max_steps) or 1]) | set(indices[-1:])
    return (line for index, line in enumerate(lines) if index in kept or not line.startswith(_STEP_LINE))
