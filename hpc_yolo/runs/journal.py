"""The journal of a run: rank 0 appends events, anybody reads them.

Follow one with jq:  tail -f journal.jsonl | jq -r 'select(.event == "epoch") | [.epoch, .losses.box, .lr] | @tsv'
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hpc_yolo.core.files import append_json_line
from hpc_yolo.runs.events import AnyEvent

MAX_UNWRITTEN = 10_000
_STEP_LINE = b'{"event":"step",'  # as the writer begins it
_DECODER = msgspec.json.Decoder(AnyEvent)


class JournalWriter:
    """Appends events of one attempt and then tells `on_event` of each. Only rank 0 has one.

    A full or failing disk does not end the training: what it refuses is kept, and written before the next event.
    """

    def __init__(
        self,
        path: Path,
        attempt: int,
        clock: Callable[[], float] = time.time,
        on_event: Callable[[AnyEvent], None] = lambda _event: None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            before_write: called before every line; what it raises stops that line.
        """
        self.attempt = attempt
        self._path = path
        self._clock = clock
        self._on_event = on_event
        self._before_write = before_write
        self._unwritten: deque[dict[str, Any]] = deque(maxlen=MAX_UNWRITTEN)

    def write(self, event: AnyEvent) -> None:
        """Append `event` with this attempt and the time. A figure that is not finite becomes null."""
        stamped = msgspec.structs.replace(event, time=self._clock(), attempt=self.attempt)
        self._unwritten.append(_without_nonfinite(msgspec.to_builtins(stamped)))
        was_refused = len(self._unwritten) > 1
        try:
            while self._unwritten:
                self._before_write()
                append_json_line(self._path, self._unwritten[0])
                self._unwritten.popleft()
        except OSError as error:
            if not was_refused:  # said once, where the file system cannot be in the way
                words = f"{self._path} cannot be written: {error.strerror or error}; its events wait in memory"
                print(words, file=sys.stderr, flush=True)
        self._on_event(stamped)


class JournalReader:
    """Reads a journal that grows: each call gives the events since the one before."""

    def __init__(self, path: Path, offset_bytes: int = 0) -> None:
        self._path = path
        self._offset_bytes = offset_bytes

    def new_events(self, max_steps: int | None = None) -> list[AnyEvent]:
        """Events of the complete lines added since the last call; no journal yet, no events.

        Args:
            max_steps: of events of single steps, take no more than about so many, evenly, and the last one. A screen
                of many runs needs no more, and reading a journal takes a fraction of the time.
        """
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset_bytes)
                added = file.read()
        except FileNotFoundError:
            return []
        whole_bytes = added.rfind(b"\n") + 1
        self._offset_bytes += whole_bytes
        lines = added[:whole_bytes].split(b"\n")
        return list(_parse_events(lines if max_steps is None else _without_most_steps(lines, max_steps)))


def read_events(path: Path) -> list[AnyEvent]:
    """The events in a journal, oldest first; lines that this version does not know are passed over."""
    return JournalReader(path).new_events()


def _parse_events(lines: Iterable[bytes]) -> Iterator[AnyEvent]:
    for line in lines:
        try:
            yield _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue


def _without_most_steps(lines: list[bytes], max_steps: int) -> Iterator[bytes]:
    places = [place for place, line in enumerate(lines) if line.startswith(_STEP_LINE)]
    kept = set(places[:: -(-len(places) // max_steps) or 1]) | set(places[-1:])
    return (line for place, line in enumerate(lines) if place in kept or not line.startswith(_STEP_LINE))


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nonfinite(item) for item in value]
    return value
