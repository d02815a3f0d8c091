"""The journal of a run: rank 0 appends events, anybody reads them.

Follow one with jq:  tail -f journal.jsonl | jq -r 'select(.event == "epoch") | [.epoch, .box, .images_per_s] | @tsv'
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hpc_yolo.fileio import append_json_line, parse_json_lines
from hpc_yolo.runs.events import AnyEvent


class JournalWriter:
    """Appends events of one attempt and then tells `on_event` of each. Only rank 0 has one."""

    def __init__(
        self,
        path: Path,
        attempt: int,
        clock: Callable[[], float] = time.time,
        on_event: Callable[[AnyEvent], None] = lambda _event: None,
    ) -> None:
        self._path = path
        self.attempt = attempt
        self._clock = clock
        self._on_event = on_event

    def write(self, event: AnyEvent) -> None:
        """Append `event` with this attempt and the time. A figure that is not finite becomes null.

        Raises:
            OSError: the file system refuses.
        """
        stamped = msgspec.structs.replace(event, time=self._clock(), attempt=self.attempt)
        append_json_line(self._path, _without_nonfinite(msgspec.to_builtins(stamped)))
        self._on_event(stamped)


class JournalReader:
    """Reads a journal that grows: each call gives the events since the one before."""

    def __init__(self, path: Path, offset_bytes: int = 0) -> None:
        self._path = path
        self._offset_bytes = offset_bytes

    def new_events(self) -> list[AnyEvent]:
        """Events of the complete lines added since the last call; no journal yet, no events."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset_bytes)
                added = file.read()
        except FileNotFoundError:
            return []
        whole_bytes = added.rfind(b"\n") + 1
        self._offset_bytes += whole_bytes
        return list(_parse_events(parse_json_lines(added[:whole_bytes])))


def read_events(path: Path) -> list[AnyEvent]:
    """The events in a journal, oldest first; lines that this version does not know are passed over."""
    return JournalReader(path).new_events()


def _parse_events(records: Iterable[dict[str, Any]]) -> Iterator[AnyEvent]:
    for record in records:
        try:
            yield msgspec.convert(record, AnyEvent)
        except msgspec.ValidationError:
            continue


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nonfinite(item) for item in value]
    return value
